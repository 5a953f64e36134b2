// Submits a task within a span and runs it: propagate HOST:PORT INSTANCE. Prints the ids as JSON.
package main

import (
	"context"
	"encoding/json"
	"log"
	"os"
	"time"

	"duite"
	pb "duite/v1"

	"go.opentelemetry.io/otel"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
)

func main() {
	address, instance := os.Args[1], os.Args[2]
	otel.SetTracerProvider(sdk.NewTracerProvider())
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	conn, err := grpc.DialContext(ctx, address, grpc.WithInsecure(), grpc.WithUnaryInterceptor(duite.Propagate))
	fatal(err)

	submitting, span := otel.Tracer("submitter").Start(ctx, "submit")
	task, err := duite.Submit(submitting, conn, "scan", map[string]int{"page": 7})
	span.End()
	fatal(err)

	var handler sdk.ReadOnlySpan
	lease, err := duite.RunOne(ctx, conn, "scan", instance, func(ctx context.Context, task *pb.Task) ([]byte, error) {
		handler = trace.SpanFromContext(ctx).(sdk.ReadOnlySpan)
		return []byte("true"), nil
	})
	fatal(err)
	fatal(json.NewEncoder(os.Stdout).Encode(map[string]string{
		"task":              task.Name,
		"trace_id":          span.SpanContext().TraceID().String(),
		"lease":             lease.TraceContext.GetTraceparent(),
		"handler_trace_id":  handler.SpanContext().TraceID().String(),
		"handler_parent_id": handler.Parent().SpanID().String(),
	}))
}

func fatal(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
