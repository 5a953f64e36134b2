import com.google.protobuf.ByteString;
import duite.v1.TaskServiceGrpc.TaskServiceBlockingStub;
import duite.v1.TaskServiceOuterClass.Task;
import duite.v1.TaskServiceOuterClass.TaskFilter;
import duite.v1.TaskServiceOuterClass.WatchTasksRequest;
import duite.v1.TaskServiceOuterClass.WatchTasksResponse;
import duite.v1.Watch.WatchOptions;
import java.util.Iterator;
import java.util.List;

/** A watch of tasks by their names, which ends when all of them have ended. */
final class TaskWatch extends AnyWatch<WatchTasksResponse> {
    private final TaskServiceBlockingStub stub;
    private final WatchTasksRequest.Builder request;

    TaskWatch(TaskServiceBlockingStub stub, String parent, List<String> names) {
        super(ByteString.EMPTY);
        this.stub = stub;
        request = WatchTasksRequest.newBuilder().setParent(parent).setUntilTerminal(true)
            .setFilter(TaskFilter.newBuilder().addAllNames(names));
    }

    @Override
    protected Iterator<WatchTasksResponse> call(WatchOptions options) {
        return stub.watchTasks(request.setOptions(options).build());
    }

    @Override
    protected void take(WatchTasksResponse frame) {
        switch (frame.getFrameCase()) {
            case OPENED -> opened(frame.getOpened());
            case SNAPSHOT -> frame.getSnapshot().getTasksList().forEach(this::take);
            case SYNCED -> synced(frame.getSynced().getPosition());
            case DELTA -> {
                delta(frame.getDelta().getBaseRevision());
                frame.getDelta().getChangedList().forEach(this::take);
                frame.getDelta().getRemovedList().forEach(gone -> view.remove(Text.id(gone.getName())));
                if (!frame.getDelta().getMore()) {
                    reached(frame.getDelta().getPosition());
                }
            }
            case BOOKMARK -> reached(frame.getBookmark().getPosition());
            case RESET -> reset();
            // After `closing` the end comes; a frame that this client does not know is skipped.
            default -> { }
        }
    }

    private void take(Task task) {
        view.put(Text.id(task.getName()), Text.of("STATUS_", task.getStatus()));
    }
}
