// Command conform carries out the scenario with stock generated code; ../README.md says what each
// verb does.
//
//	conform HOST:PORT NAMESPACE SCENARIO
package main

import (
	"bufio"
	"context"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	pb "duite/v1"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

const streamTime = 120 * time.Second

// A client holds what earlier steps made, by their names.
type client struct {
	tasks   pb.TaskServiceClient
	states  pb.StateServiceClient
	workers pb.WorkerServiceClient
	parent  string

	names      map[string]string // of tasks, by `id` or `as`
	instances  map[string]string
	leases     map[string]lease
	watches    map[string]*watch
	pens       map[string]*pen
	directives map[string]directives
}

type lease struct {
	worker string
	token  []byte
}

type directives struct {
	stream pb.WorkerService_WatchLeasesClient
	cancel context.CancelFunc
}

func (c *client) task(id string) string {
	if name, found := c.names[id]; found {
		return name
	}
	return c.parent + "/tasks/" + id
}

func (c *client) state(id string) string { return c.parent + "/states/" + id }

// A verb gives the words after `ok`.
type verb func(c *client, ctx context.Context, s step) (string, error)

var verbs = map[string]verb{
	"submit": (*client).submit, "get": (*client).get, "list": (*client).list, "cancel": (*client).cancel,
	"await": (*client).await, "tasks": (*client).watchTasks, "watch": (*client).watchStates,
	"until": (*client).until, "resume": (*client).resume, "cut": (*client).cut, "close": (*client).cut,
	"lease": (*client).lease, "renew": (*client).renew, "release": (*client).release, "finish": (*client).finish,
	"directives": (*client).watchLeases, "directive": (*client).directive,
	"update": (*client).update, "get-state": (*client).getState, "delete-state": (*client).deleteState,
	"push-open": (*client).pushOpen, "push": (*client).push, "push-until": (*client).pushUntil,
	"push-resume": (*client).pushResume, "push-close": (*client).pushClose,
}

func (c *client) run(s step) string {
	verb, found := verbs[s.verb]
	if !found {
		log.Fatalf("there is no verb %q", s.verb)
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.seconds("deadline", 30))
	defer cancel()
	text, err := verb(c, ctx, s)
	if err == nil {
		return "ok" + text
	}
	failed, known := status.FromError(err)
	if !known {
		log.Fatalf("%s: %v", s.verb, err)
	}
	return showStatus(failed)
}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 4 {
		log.Fatal("usage: conform HOST:PORT NAMESPACE SCENARIO")
	}
	connection, err := grpc.Dial(os.Args[1], grpc.WithInsecure())
	if err != nil {
		log.Fatal(err)
	}
	scenario, err := os.Open(os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	c := &client{
		tasks: pb.NewTaskServiceClient(connection), states: pb.NewStateServiceClient(connection),
		workers: pb.NewWorkerServiceClient(connection), parent: "namespaces/" + os.Args[2],
		names: map[string]string{}, instances: map[string]string{}, leases: map[string]lease{},
		watches: map[string]*watch{}, pens: map[string]*pen{}, directives: map[string]directives{},
	}
	lines := bufio.NewScanner(scenario)
	for number := 0; lines.Scan(); {
		if line := lines.Text(); line != "" && !strings.ContainsAny(line[:1], "#>") {
			number++
			fmt.Println(number, c.run(parse(line)))
		}
	}
}
