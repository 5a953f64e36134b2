import duite.v1.*;
import io.grpc.ManagedChannelBuilder;
import java.util.UUID;
import java.util.concurrent.TimeUnit;

class Client {
    public static void main(String[] args) {
        var channel = ManagedChannelBuilder.forTarget(args[0]).usePlaintext().build();
        String parent = "namespaces/default", state = parent + "/states/run-1";

        var task = TaskServiceOuterClass.Task.newBuilder().setType("train").setStateName(state);
        var submit = TaskServiceOuterClass.CreateTaskRequest.newBuilder().setParent(parent)
            .setTask(task).setRequestId(UUID.randomUUID().toString()).build();
        var tasks = TaskServiceGrpc.newBlockingStub(channel).withWaitForReady();
        var answer = tasks.withDeadlineAfter(10, TimeUnit.SECONDS).createTask(submit);
        System.out.println("submitted " + answer.getTask().getName());

        var watch = StateServiceOuterClass.WatchStateRequest.newBuilder().addNames(state).build();
        var frames = StateServiceGrpc.newBlockingStub(channel).watchState(watch);
        for (boolean done = false; !done && frames.hasNext(); ) {
            var frame = frames.next();  // a snapshot first, then what changes
            var changes = frame.hasDelta() ? frame.getDelta().getChangesList() : frame.getSnapshot().getEntriesList();
            for (var change : changes) {
                System.out.println(change.getKey() + " = " + change.getValue().toString().trim());
                done |= change.getKey().equals("done");
            }
        }
        channel.shutdownNow();  // ends the watch too
    }
}
