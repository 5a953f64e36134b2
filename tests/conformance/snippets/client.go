package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	pb "duite/v1"

	"google.golang.org/grpc"
)

func main() {
	connection, err := grpc.Dial(os.Args[1], grpc.WithInsecure())
	check(err)
	parent, state := "namespaces/default", "namespaces/default/states/run-1"
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel() // ends the watch too

	soon, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	answer, err := pb.NewTaskServiceClient(connection).CreateTask(soon, &pb.CreateTaskRequest{
		Parent: parent, Task: &pb.Task{Type: "train", StateName: state},
		RequestId: os.Args[2], // a new UUID
	}, grpc.WaitForReady(true))
	check(err)
	fmt.Println("submitted", answer.Task.Name)

	watch, err := pb.NewStateServiceClient(connection).WatchState(ctx, &pb.WatchStateRequest{Names: []string{state}})
	check(err)
	for done := false; !done; {
		frame, err := watch.Recv() // a snapshot first, then what changes
		check(err)
		for _, change := range append(frame.GetSnapshot().GetEntries(), frame.GetDelta().GetChanges()...) {
			fmt.Println(change.Key, "=", change.GetValue())
			done = done || change.Key == "done"
		}
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
