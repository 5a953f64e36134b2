package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"strings"

	pb "duite/v1"

	"google.golang.org/grpc/status"
)

func (c *client) submit(ctx context.Context, s step) (string, error) {
	task := &pb.Task{Type: s.get("type"), Labels: s.pairs("label")}
	if s.get("input") != "" {
		task.Input = payload(s.get("input"))
	}
	if s.get("state") != "" {
		task.StateName = c.state(s.get("state"))
	}
	if s.get("attempts") != "" {
		task.Policy = &pb.TaskPolicy{MaxAttempts: int32(s.int("attempts"))}
	}
	made, err := c.tasks.CreateTask(ctx, &pb.CreateTaskRequest{
		Parent: c.parent, TaskId: s.get("id"), Task: task, RequestId: s.get("request"),
	})
	if err != nil {
		return "", err
	}
	key := s.get("id") + s.get("as")
	if known, found := c.names[key]; found && known != made.Task.Name {
		key = "other"
	} else {
		c.names[key] = made.Task.Name
	}
	return fmt.Sprintf(" task=%s status=%s attempt=%d", key, enum(made.Task.Status, "STATUS_"), made.Task.Attempt), nil
}

func (c *client) get(ctx context.Context, s step) (string, error) {
	got, err := c.tasks.GetTask(ctx, &pb.GetTaskRequest{Name: c.task(s.get("id"))})
	if err != nil {
		return "", err
	}
	task := got.Task
	text := fmt.Sprintf(" task=%s status=%s attempt=%d", short(task.Name), enum(task.Status, "STATUS_"), task.Attempt)
	text += showPayload("output", task.Output)
	failure := task.Failure
	if failure == nil {
		return text, nil
	}
	text += fmt.Sprintf(" failure=%s message=%s", failure.Type, failure.Message)
	text += optional("category", enum(failure.Category, "CATEGORY_"))
	text += optional("stack", failure.StackTrace) + optional("runtime", failure.Runtime)
	text += optional("cause", failure.Cause.GetType()) + optional("cause-message", failure.Cause.GetMessage())
	text += showMap("meta", failure.Metadata) + showPayload("details", failure.Details)
	var attempts []string
	for _, attempt := range task.Attempts {
		attempts = append(attempts, attempt.Failure.GetMessage())
	}
	return text + " attempts=" + strings.Join(attempts, ","), nil
}

func (c *client) list(ctx context.Context, s step) (string, error) {
	request := &pb.ListTasksRequest{Parent: c.parent, PageSize: int32(s.int("size"))}
	count := 0
	for {
		page, err := c.tasks.ListTasks(ctx, request)
		if err != nil {
			return "", err
		}
		count += len(page.Tasks)
		if page.NextPageToken == "" {
			return fmt.Sprintf(" tasks=%d", count), nil
		}
		request.PageToken = page.NextPageToken
	}
}

func (c *client) cancel(ctx context.Context, s step) (string, error) {
	got, err := c.tasks.CancelTask(ctx, &pb.CancelTaskRequest{Name: c.task(s.get("id")), Reason: s.get("reason")})
	if err != nil {
		return "", err
	}
	text := " status=" + enum(got.Task.Status, "STATUS_")
	if got.Task.CancelRequested && got.Task.EndTime == nil {
		text += " cancel_requested=yes"
	}
	return text, nil
}

// watchOf gives a watch of tasks until they have ended, not open yet.
func (c *client) watchOf(ids string) *watch {
	request := &pb.WatchTasksRequest{Parent: c.parent, Filter: &pb.TaskFilter{}, UntilTerminal: true}
	for _, id := range strings.Split(ids, ",") {
		request.Filter.Names = append(request.Filter.Names, c.task(id))
	}
	changes := func(tasks []*pb.Task, removed []*pb.RemovedTask) []change {
		changes := []change{}
		for _, task := range tasks {
			changes = append(changes, change{short(task.Name), enum(task.Status, "STATUS_")})
		}
		for _, task := range removed {
			changes = append(changes, change{short(task.Name), ""})
		}
		return changes
	}
	return &watch{call: func(ctx context.Context, options *pb.WatchOptions) (func() (frame, error), error) {
		request.Options = options
		stream, err := c.tasks.WatchTasks(ctx, request)
		return func() (frame, error) {
			got, err := stream.Recv()
			if err != nil {
				return frame{}, err
			}
			frame := frame{opened: got.GetOpened(), synced: got.GetSynced(), bookmark: got.GetBookmark(), reset: got.GetReset_()}
			if chunk := got.GetSnapshot(); chunk != nil {
				frame.snapshot = changes(chunk.Tasks, nil)
			}
			if d := got.GetDelta(); d != nil {
				frame.delta = &delta{d.BaseRevision, d.Position, changes(d.Changed, d.Removed), d.More}
			}
			return frame, nil
		}, err
	}}
}

func (c *client) await(ctx context.Context, s step) (string, error) {
	watch := c.watchOf(s.get("id"))
	if _, err := watch.open(); err != nil {
		return "", err
	}
	defer watch.cancel()
	err := watch.until("end", "OK")
	return watch.show(), err
}

func (c *client) watchTasks(ctx context.Context, s step) (string, error) {
	c.watches[s.get("as")] = c.watchOf(s.get("ids"))
	return c.resume(ctx, s)
}

// worker gives the instance of a worker, made at its first use.
func (c *client) worker(name string) string {
	if c.instances[name] == "" {
		var uuid [16]byte
		rand.Read(uuid[:])
		uuid[6], uuid[8] = uuid[6]&0x0f|0x40, uuid[8]&0x3f|0x80
		c.instances[name] = fmt.Sprintf("%x-%x-%x-%x-%x", uuid[:4], uuid[4:6], uuid[6:8], uuid[8:10], uuid[10:])
	}
	return c.instances[name]
}

func (c *client) lease(ctx context.Context, s step) (string, error) {
	worker := s.get("worker")
	given, err := c.workers.LeaseTasks(ctx, &pb.LeaseTasksRequest{
		Parent: c.parent, TaskTypes: []string{s.get("type")}, Wait: s.duration("wait"),
		WorkerId: worker, InstanceUid: c.worker(worker),
	})
	if err != nil || len(given.Leases) == 0 {
		return " none", err
	}
	c.leases[s.get("as")] = lease{worker, given.Leases[0].LeaseToken}
	task := given.Leases[0].Task
	text := fmt.Sprintf(" task=%s attempt=%d", short(task.Name), task.Attempt)
	return text + showPayload("input", task.Input) + showMap("label", task.Labels), nil
}

func (c *client) renew(ctx context.Context, s step) (string, error) {
	held, found := c.leases[s.get("lease")]
	if !found {
		held = lease{"w1", []byte(s.get("token"))}
	}
	got, err := c.workers.RenewLeases(ctx, &pb.RenewLeasesRequest{
		LeaseTokens: [][]byte{held.token}, WorkerId: held.worker, InstanceUid: c.worker(held.worker),
	})
	if err != nil {
		return "", err
	}
	return " " + enum(got.Statuses[0].Disposition, "DISPOSITION_"), nil
}

func (c *client) release(ctx context.Context, s step) (string, error) {
	tokens := [][]byte{c.leases[s.get("lease")].token}
	_, err := c.workers.ReleaseLeases(ctx, &pb.ReleaseLeasesRequest{LeaseTokens: tokens})
	return "", err
}

func failureOf(s step) *pb.Failure {
	category := "CATEGORY_" + s.get("category")
	if s.get("category") == "" {
		category = "CATEGORY_APPLICATION"
	}
	failure := &pb.Failure{
		Category: pb.Failure_Category(pb.Failure_Category_value[category]),
		Type:     s.get("failure"), Message: s.get("message"),
		StackTrace: s.get("stack"), Runtime: s.get("runtime"),
		Retryable: s.get("retryable") == "yes", Metadata: s.pairs("meta"),
	}
	if s.get("details") != "" {
		failure.Details = payload(s.get("details"))
	}
	if s.get("delay") != "" {
		failure.RetryDelay = s.duration("delay")
	}
	if s.get("cause") != "" {
		failure.Cause = &pb.Failure{Type: s.get("cause"), Message: s.get("cause-message")}
	}
	return failure
}

func (c *client) finish(ctx context.Context, s step) (string, error) {
	outcome := &pb.TaskOutcome{LeaseToken: c.leases[s.get("lease")].token}
	switch {
	case s.get("failure") != "":
		outcome.Outcome = &pb.TaskOutcome_Failure{Failure: failureOf(s)}
	case s.get("cancelled") != "":
		outcome.Outcome = &pb.TaskOutcome_Cancelled{Cancelled: true}
	default:
		outcome.Outcome = &pb.TaskOutcome_Output{Output: payload(s.get("output"))}
	}
	if pen := c.pens[s.get("flushed")]; pen != nil {
		mark := &pb.WriterMark{StateName: pen.opening.StateName, WriterId: pen.opening.WriterId, Sequence: pen.sent}
		outcome.Flushed = append(outcome.Flushed, mark)
	}
	if text := s.get("contribute"); text != "" {
		parts := strings.SplitN(text, ":", 3)
		add := &pb.KeyUpdate{Key: parts[1], Operation: &pb.KeyUpdate_Add{Add: valueOf(parts[2], 0)}}
		contribution := &pb.Contribution{StateName: c.state(parts[0]), Updates: []*pb.KeyUpdate{add}}
		outcome.Contributions = append(outcome.Contributions, contribution)
	}
	got, err := c.workers.FinishTasks(ctx, &pb.FinishTasksRequest{Outcomes: []*pb.TaskOutcome{outcome}})
	if err != nil {
		return "", err
	}
	if refused := got.Results[0].GetError(); refused != nil {
		return "", status.FromProto(refused).Err()
	}
	return " task=" + short(got.Results[0].GetTask().Name), nil
}

func (c *client) watchLeases(ctx context.Context, s step) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), streamTime)
	worker := s.get("worker")
	stream, err := c.workers.WatchLeases(ctx, &pb.WatchLeasesRequest{
		Parent: c.parent, WorkerId: worker, InstanceUid: c.worker(worker),
	})
	c.directives[s.get("as")] = directives{stream, cancel}
	return "", err
}

func (c *client) directive(ctx context.Context, s step) (string, error) {
	token := c.leases[s.get("lease")].token
	for {
		got, err := c.directives[s.get("as")].stream.Recv()
		if errors.Is(err, io.EOF) {
			return "", errors.New("the directives ended")
		}
		if err != nil {
			return "", err
		}
		told := got.GetDirective()
		if told != nil && (len(told.LeaseToken) == 0 || string(told.LeaseToken) == string(token)) {
			return " " + enum(told.Disposition, "DISPOSITION_") + optional("reason", told.Reason), nil
		}
	}
}
