package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	pb "duite/v1"
)

func (c *client) update(ctx context.Context, s step) (string, error) {
	got, err := c.states.UpdateState(ctx, &pb.UpdateStateRequest{
		Name: c.state(s.get("state")), Updates: updatesOf(s, 0),
		RequestId: s.get("request"), ExpectedRevision: s.int("revision"),
	})
	text := ""
	for _, key := range got.GetRejected() {
		text += fmt.Sprintf(" rejected=%s:%s", key.Key, key.Reason)
	}
	return text, err
}

func (c *client) getState(ctx context.Context, s step) (string, error) {
	got, err := c.states.GetState(ctx, &pb.GetStateRequest{Name: c.state(s.get("state"))})
	text := ""
	for _, entry := range got.GetState().GetEntries() {
		text += fmt.Sprintf(" %s/%s=%s", s.get("state"), entry.Key, showValue(entry.Value))
	}
	return text, err
}

func (c *client) deleteState(ctx context.Context, s step) (string, error) {
	_, err := c.states.DeleteState(ctx, &pb.DeleteStateRequest{Name: c.state(s.get("state"))})
	return "", err
}

func (c *client) watchStates(ctx context.Context, s step) (string, error) {
	ids := strings.Split(s.get("states"), ",")
	request := &pb.WatchStateRequest{}
	for _, id := range ids {
		request.Names = append(request.Names, c.state(id))
	}
	changes := func(told []*pb.KeyChange) []change {
		changes := []change{}
		for _, one := range told {
			change := change{name: ids[one.Target] + "/" + one.Key}
			switch what := one.Change.(type) {
			case *pb.KeyChange_Deleted:
			case *pb.KeyChange_Stub:
				change.text = "stub:" + what.Stub.ContentType
			default:
				change.text = showValue(one.GetValue())
			}
			changes = append(changes, change)
		}
		return changes
	}
	call := func(ctx context.Context, options *pb.WatchOptions) (func() (frame, error), error) {
		request.Options = options
		stream, err := c.states.WatchState(ctx, request)
		return func() (frame, error) {
			got, err := stream.Recv()
			if err != nil {
				return frame{}, err
			}
			frame := frame{opened: got.GetOpened(), synced: got.GetSynced(), bookmark: got.GetBookmark(), reset: got.GetReset_()}
			if chunk := got.GetSnapshot(); chunk != nil {
				frame.snapshot = changes(chunk.Entries)
			}
			if d := got.GetDelta(); d != nil {
				frame.delta = &delta{d.BaseRevision, d.Position, changes(d.Changes), d.More}
			}
			return frame, nil
		}, err
	}
	c.watches[s.get("as")] = &watch{call: call, token: []byte(s.get("token"))}
	return c.resume(ctx, s)
}

// resume opens a watch, with its token if it has one.
func (c *client) resume(ctx context.Context, s step) (string, error) {
	watch := c.watches[s.get("as")]
	start, err := watch.open()
	return fmt.Sprintf(" start=%s%s", start, watch.show()), err
}

func (c *client) until(ctx context.Context, s step) (string, error) {
	watch := c.watches[s.get("as")]
	for _, word := range s.words {
		if word[0] == "as" || word[0] == "deadline" {
			continue
		}
		if err := watch.until(word[0], word[1]); err != nil {
			return "", err
		}
	}
	chain := "ok"
	if !watch.chain {
		chain = "broken"
	}
	return fmt.Sprintf("%s chain=%s", watch.show(), chain), nil
}

// cut cancels the call of a watch, a push or directives.
func (c *client) cut(ctx context.Context, s step) (string, error) {
	name := s.get("as")
	if watch := c.watches[name]; watch != nil {
		watch.cancel()
	}
	if pen := c.pens[name]; pen != nil {
		pen.cancel()
	}
	if directives, found := c.directives[name]; found {
		directives.cancel()
	}
	return "", nil
}

func (c *client) pushOpen(ctx context.Context, s step) (string, error) {
	pen := &pen{states: c.states, opening: &pb.PushOpen{
		StateName: c.state(s.get("state")), WriterId: s.get("writer"), LeaseToken: c.leases[s.get("lease")].token,
	}}
	c.pens[s.get("as")] = pen
	last, err := pen.open()
	return fmt.Sprintf(" last=%d", last), err
}

func (c *client) pushResume(ctx context.Context, s step) (string, error) {
	pen := c.pens[s.get("as")]
	before := pen.acked
	last, err := pen.open()
	for _, batch := range pen.unacked {
		if err == nil {
			err = pen.write(batch)
		}
	}
	if before <= last && last <= pen.sent {
		return fmt.Sprintf(" last=%d..%d", before, pen.sent), err
	}
	return fmt.Sprintf(" last=%d", last), err
}

func (c *client) push(ctx context.Context, s step) (string, error) {
	for number := s.int("from"); number <= s.int("to"); number++ {
		final := s.get("final") == "yes" && number == s.int("to")
		batch := &pb.UpdateBatch{Sequence: number, Updates: updatesOf(s, number), Final: final}
		if err := c.pens[s.get("as")].send(batch); err != nil {
			return "", err
		}
	}
	return "", nil
}

func (c *client) pushUntil(ctx context.Context, s step) (string, error) {
	pen := c.pens[s.get("as")]
	for expected := int64(0); s.get("rewind") != "" || pen.acked < s.int("acked"); {
		var err error
		if expected, err = pen.read(); err != nil {
			return "", err
		}
		if s.get("rewind") != "" && expected > 0 {
			return fmt.Sprintf(" rewind=%d%s", expected, pen.showRejected()), nil
		}
	}
	return fmt.Sprintf(" acked=%d%s", pen.acked, pen.showRejected()), nil
}

func (c *client) pushClose(ctx context.Context, s step) (string, error) {
	pen := c.pens[s.get("as")]
	err := pen.stream.CloseSend()
	for err == nil {
		_, err = pen.read()
	}
	if errors.Is(err, io.EOF) { // OK
		err = nil
	}
	return fmt.Sprintf(" acked=%d", pen.acked), err
}
