// Package duite is a client and a worker of duite over stock generated code. With Propagate as
// the connection's interceptor, each call carries its span's context, so a task belongs to the trace
// that it was submitted in; the span of a handler is a child of its attempt's, which is the server's.
package duite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	pb "duite/v1"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"
)

const parent = "namespaces/default"

// The form in which duite keeps trace context.
var w3c = propagation.TraceContext{}

type carrier map[string]string

func (c carrier) Get(name string) string { return c[name] }
func (c carrier) Set(name, value string) { c[name] = value }
func (c carrier) Keys() []string         { return []string{"traceparent", "tracestate"} }

// Propagate puts the context's span into the metadata of each call. Newer versions of OpenTelemetry
// have a ready-made one, otelgrpc.
func Propagate(ctx context.Context, method string, request, reply interface{}, conn *grpc.ClientConn,
	invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	headers := carrier{}
	w3c.Inject(ctx, headers)
	for name, value := range headers {
		ctx = metadata.AppendToOutgoingContext(ctx, name, value)
	}
	return invoke(ctx, method, request, reply, conn, options...)
}

// Submit submits a task with a JSON input.
func Submit(ctx context.Context, conn *grpc.ClientConn, taskType string, value interface{}) (*pb.Task, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return nil, err
	}
	input := &pb.Payload{ContentType: "application/json", Data: data}
	response, err := pb.NewTaskServiceClient(conn).CreateTask(ctx, &pb.CreateTaskRequest{
		Parent: parent,
		Task:   &pb.Task{Type: taskType, Input: input},
	}, grpc.WaitForReady(true))
	return response.GetTask(), err
}

// A Handler runs tasks of one type.
type Handler func(ctx context.Context, task *pb.Task) ([]byte, error)

// RunOne waits for a task of the type, runs and finishes it.
func RunOne(ctx context.Context, conn *grpc.ClientConn, taskType, instance string, run Handler) (*pb.Lease, error) {
	workers := pb.NewWorkerServiceClient(conn)
	given, err := workers.LeaseTasks(ctx, &pb.LeaseTasksRequest{
		Parent: parent, TaskTypes: []string{taskType}, Wait: durationpb.New(10 * time.Second),
		WorkerId: "go", InstanceUid: instance,
	})
	if err != nil {
		return nil, err
	}
	if len(given.Leases) == 0 {
		return nil, errors.New("there was no task")
	}
	lease := given.Leases[0]
	renewing, stop := context.WithCancel(ctx)
	defer stop()
	go renew(renewing, workers, lease, instance)

	outcome := handle(ctx, lease, run)
	finished, err := workers.FinishTasks(ctx, &pb.FinishTasksRequest{Outcomes: []*pb.TaskOutcome{outcome}})
	if err == nil && finished.Results[0].GetError() != nil {
		err = fmt.Errorf("the outcome was refused: %v", finished.Results[0].GetError())
	}
	return lease, err
}

// renew accepts the lease at once, and renews it until the context ends.
func renew(ctx context.Context, workers pb.WorkerServiceClient, lease *pb.Lease, instance string) {
	for ctx.Err() == nil {
		workers.RenewLeases(ctx, &pb.RenewLeasesRequest{ // what fails is tried again
			LeaseTokens: [][]byte{lease.LeaseToken}, WorkerId: "go", InstanceUid: instance,
		})
		select {
		case <-ctx.Done():
		case <-time.After(lease.RenewInterval.AsDuration()):
		}
	}
}

func handle(ctx context.Context, lease *pb.Lease, run Handler) *pb.TaskOutcome {
	attempt := w3c.Extract(ctx, carrier{
		"traceparent": lease.TraceContext.GetTraceparent(),
		"tracestate":  lease.TraceContext.GetTracestate(),
	})
	handling, span := otel.Tracer("duite").Start(attempt, "handle "+lease.Task.Type, trace.WithSpanKind(trace.SpanKindInternal))
	defer span.End()
	outcome := &pb.TaskOutcome{LeaseToken: lease.LeaseToken}
	data, err := run(handling, lease.Task)
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
		outcome.Outcome = &pb.TaskOutcome_Failure{Failure: &pb.Failure{
			Type: fmt.Sprintf("%T", err), Message: err.Error(), Runtime: "go", Retryable: true,
		}}
	} else {
		outcome.Outcome = &pb.TaskOutcome_Output{Output: &pb.Payload{ContentType: "application/json", Data: data}}
	}
	return outcome
}
