package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	pb "duite/v1"
)

// What WatchState and WatchTasks have in common.
type frame struct {
	opened   *pb.WatchOpened
	synced   *pb.WatchSynced
	bookmark *pb.WatchBookmark
	reset    *pb.WatchReset
	snapshot []change
	delta    *delta
}

type delta struct {
	base     int64
	position *pb.Position
	changes  []change
	more     bool
}

// A change is a name with what it is now; no text: it is gone.
type change struct{ name, text string }

// A watch holds the view that it has told, and the token to go on with.
type watch struct {
	// Opens it, and gives the function that receives its frames.
	call func(ctx context.Context, options *pb.WatchOptions) (func() (frame, error), error)

	next     func() (frame, error)
	cancel   context.CancelFunc
	view     map[string]string
	revision int64
	token    []byte
	chain    bool
}

// open reads up to `synced` and says how the watch started.
func (w *watch) open() (started string, err error) {
	var ctx context.Context
	ctx, w.cancel = context.WithTimeout(context.Background(), streamTime)
	w.next, err = w.call(ctx, &pb.WatchOptions{ResumeToken: w.token})
	w.chain = true
	for err == nil {
		var got frame
		if got, err = w.next(); err != nil {
			break
		}
		if got.opened != nil {
			started = enum(got.opened.Start, "START_")
		}
		w.take(got)
		if got.synced != nil {
			return started, nil
		}
	}
	return "", err
}

// take says whether the view is complete after the frame.
func (w *watch) take(got frame) bool {
	switch {
	case got.reset != nil, got.opened != nil && got.opened.Start == pb.WatchOpened_START_SNAPSHOT:
		w.view, w.revision = map[string]string{}, 0
	case got.snapshot != nil:
		w.apply(got.snapshot)
	case got.delta != nil:
		w.chain = w.chain && got.delta.base == w.revision
		w.apply(got.delta.changes)
		return !got.delta.more && w.hold(got.delta.position)
	case got.synced != nil:
		return w.hold(got.synced.Position)
	case got.bookmark != nil:
		return w.hold(got.bookmark.Position)
	}
	return false
}

func (w *watch) apply(changes []change) {
	for _, change := range changes {
		if change.text == "" {
			delete(w.view, change.name)
		} else {
			w.view[change.name] = change.text
		}
	}
}

func (w *watch) hold(position *pb.Position) bool {
	w.chain = w.chain && position.Revision >= w.revision
	w.revision, w.token = position.Revision, position.ResumeToken
	return true
}

// until reads on until the view has that, or to the end where `name` is `end`.
func (w *watch) until(name, wanted string) error {
	for complete := true; ; {
		held, found := w.view[name]
		if complete && (held == wanted || !found && wanted == "absent") {
			return nil
		}
		got, err := w.next()
		if errors.Is(err, io.EOF) && name == "end" {
			return nil
		}
		if err != nil {
			return err
		}
		complete = w.take(got)
	}
}

func (w *watch) show() (text string) {
	for _, name := range sortedKeys(w.view) {
		text += fmt.Sprintf(" %s=%s", name, w.view[name])
	}
	return text
}

// A pen is a writer of a state: what it has sent and not heard to be durable, to be sent again.
type pen struct {
	states  pb.StateServiceClient
	opening *pb.PushOpen

	stream   pb.StateService_PushStateClient
	cancel   context.CancelFunc
	unacked  []*pb.UpdateBatch
	window   int
	acked    int64
	sent     int64
	rejected string
}

// open gives the last sequence that is durable, and drops what that makes known.
func (p *pen) open() (last int64, err error) {
	var ctx context.Context
	ctx, p.cancel = context.WithTimeout(context.Background(), streamTime)
	if p.stream, err = p.states.PushState(ctx); err != nil {
		return 0, err
	}
	open := &pb.PushStateRequest{Frame: &pb.PushStateRequest_Open{Open: p.opening}}
	if err = p.stream.Send(open); err != nil && !errors.Is(err, io.EOF) { // EOF: Recv has the error
		return 0, err
	}
	got, err := p.stream.Recv()
	if err != nil {
		return 0, err
	}
	p.window = int(got.GetOpened().GetWindow().GetMaxUnackedBatches())
	p.drop(got.GetOpened().GetLastSequence())
	return got.GetOpened().GetLastSequence(), nil
}

func (p *pen) drop(acked int64) {
	if acked > p.acked {
		p.acked = acked
	}
	p.keep(func(sequence int64) bool { return sequence > acked })
}

func (p *pen) keep(wanted func(sequence int64) bool) {
	var kept []*pb.UpdateBatch
	for _, batch := range p.unacked {
		if wanted(batch.Sequence) {
			kept = append(kept, batch)
		}
	}
	p.unacked = kept
}

func (p *pen) send(batch *pb.UpdateBatch) error {
	for len(p.unacked) >= p.window {
		if _, err := p.read(); err != nil {
			return err
		}
	}
	if batch.Sequence > p.acked {
		p.unacked = append(p.unacked, batch)
	}
	if batch.Sequence > p.sent {
		p.sent = batch.Sequence
	}
	return p.write(batch)
}

func (p *pen) write(batch *pb.UpdateBatch) error {
	batches := &pb.UpdateBatches{Batches: []*pb.UpdateBatch{batch}}
	return p.stream.Send(&pb.PushStateRequest{Frame: &pb.PushStateRequest_Batches{Batches: batches}})
}

// read takes one frame. It gives the number expected where it is a rewind, else 0.
func (p *pen) read() (expected int64, err error) {
	got, err := p.stream.Recv()
	if err != nil {
		return 0, err
	}
	if ack := got.GetAck(); ack != nil {
		p.drop(ack.AckedSequence)
		p.window = int(ack.Window.GetMaxUnackedBatches())
		for _, key := range ack.Rejected {
			p.rejected += fmt.Sprintf(" rejected=%d:%s:%s", key.Sequence, key.Key, key.Reason)
		}
	}
	if rewind := got.GetRewind(); rewind != nil {
		expected = rewind.ExpectedSequence
		p.keep(func(sequence int64) bool { return sequence < expected })
		p.sent = expected - 1
	}
	return expected, nil
}

func (p *pen) showRejected() (text string) {
	text, p.rejected = p.rejected, ""
	return text
}
