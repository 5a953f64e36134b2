import com.google.protobuf.ByteString;
import duite.v1.Common.Failure;
import duite.v1.StateServiceGrpc;
import duite.v1.StateServiceGrpc.StateServiceBlockingStub;
import duite.v1.StateServiceOuterClass.DeleteStateRequest;
import duite.v1.StateServiceOuterClass.GetStateRequest;
import duite.v1.StateServiceOuterClass.PushOpen;
import duite.v1.StateServiceOuterClass.UpdateStateRequest;
import duite.v1.TaskServiceGrpc;
import duite.v1.TaskServiceGrpc.TaskServiceBlockingStub;
import duite.v1.TaskServiceOuterClass.CancelTaskRequest;
import duite.v1.TaskServiceOuterClass.CreateTaskRequest;
import duite.v1.TaskServiceOuterClass.GetTaskRequest;
import duite.v1.TaskServiceOuterClass.ListTasksRequest;
import duite.v1.TaskServiceOuterClass.Task;
import duite.v1.TaskServiceOuterClass.TaskPolicy;
import io.grpc.Channel;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;

/** What submits tasks, reads and changes states, watches and pushes: a method for each verb. */
final class Client {
    private final Channel channel;
    private final String parent;
    private final Worker worker;
    private final Map<String, String> tasks = new HashMap<>();
    private final Map<String, AnyWatch<?>> watches = new HashMap<>();
    private final Map<String, Push> pushes = new HashMap<>();

    Client(Channel channel, String parent) {
        this.channel = channel;
        this.parent = parent;
        worker = new Worker(channel, parent, pushes);
    }

    /** Gives the words to print. Throws StatusRuntimeException where a call fails. */
    String carryOut(Step step) {
        return switch (step.verb()) {
            case "submit" -> submit(step);
            case "get" -> get(step);
            case "list" -> list(step);
            case "cancel" -> cancel(step);
            case "await" -> await(step);
            case "tasks" -> open(step, tasks(step, step.get("ids")));
            case "watch" -> open(step, states(step));
            case "until" -> until(step);
            case "resume" -> watches.get(step.get("as")).open();
            case "cut", "close" -> cut(step);
            case "update" -> update(step);
            case "get-state" -> getState(step);
            case "delete-state" -> deleteState(step);
            case "push-open" -> pushOpen(step);
            case "push" -> {
                pushes.get(step.get("as")).push(step);
                yield "";
            }
            case "push-until" -> step.has("rewind")
                ? pushes.get(step.get("as")).untilRewind()
                : pushes.get(step.get("as")).untilAcked(step.number("acked"));
            case "push-resume" -> "last=" + pushes.get(step.get("as")).resume();
            case "push-close" -> pushes.get(step.get("as")).close();
            default -> worker.carryOut(step);
        };
    }

    private String submit(Step step) {
        var task = Task.newBuilder().setType(step.get("type"));
        if (step.has("input")) {
            task.setInput(Text.payload(step.get("input")));
        }
        if (step.has("state")) {
            task.setStateName(state(step));
        }
        if (step.has("label")) {
            String[] label = step.get("label").split(":", 2);
            task.putLabels(label[0], label[1]);
        }
        // Left out, it is 0: the default.
        task.setPolicy(TaskPolicy.newBuilder().setMaxAttempts(step.number("attempts")));
        Task made = taskStub(step, 30).createTask(CreateTaskRequest.newBuilder().setParent(parent)
            .setTaskId(step.text("id")).setRequestId(step.text("request")).setTask(task).build()).getTask();
        String called = step.has("id") ? step.get("id") : step.get("as");
        String before = tasks.put(called, made.getName());
        boolean other = before != null && !before.equals(made.getName());
        return "task=" + (other ? "other" : called) + " status=" + Text.of("STATUS_", made.getStatus())
            + " attempt=" + made.getAttempt();
    }

    private String get(Step step) {
        Task task = taskStub(step, 30)
            .getTask(GetTaskRequest.newBuilder().setName(task(step.get("id"))).build()).getTask();
        String words = "task=" + step.get("id") + " status=" + Text.of("STATUS_", task.getStatus())
            + " attempt=" + task.getAttempt() + Text.word("output", task.getOutput());
        return task.hasFailure() ? words + failure(task) : words;
    }

    private static String failure(Task task) {
        Failure failure = task.getFailure();
        String words = " failure=" + failure.getType() + " message=" + failure.getMessage()
            + " category=" + Text.of("CATEGORY_", failure.getCategory())
            + Text.word("stack", failure.getStackTrace()) + Text.word("runtime", failure.getRuntime());
        if (failure.hasCause()) {
            words += " cause=" + failure.getCause().getType()
                + " cause-message=" + failure.getCause().getMessage();
        }
        return words + Text.words("meta", failure.getMetadataMap()) + Text.word("details", failure.getDetails())
            + " attempts=" + task.getAttemptsList().stream()
                .map(attempt -> attempt.getFailure().getMessage()).collect(Collectors.joining(","));
    }

    private String list(Step step) {
        int count = 0;
        var request = ListTasksRequest.newBuilder().setParent(parent).setPageSize(step.number("size"));
        do {
            var page = taskStub(step, 30).listTasks(request.build());
            count += page.getTasksCount();
            request.setPageToken(page.getNextPageToken());
        } while (!request.getPageToken().isEmpty());
        return "tasks=" + count;
    }

    private String cancel(Step step) {
        Task task = taskStub(step, 30).cancelTask(CancelTaskRequest.newBuilder()
            .setName(task(step.get("id"))).setReason(step.text("reason")).build()).getTask();
        boolean ended = switch (task.getStatus()) {
            case STATUS_SUCCEEDED, STATUS_FAILED, STATUS_CANCELLED -> true;
            default -> false;
        };
        return "status=" + Text.of("STATUS_", task.getStatus())
            + (task.getCancelRequested() && !ended ? " cancel_requested=yes" : "");
    }

    private String await(Step step) {
        var watch = tasks(step, step.get("id"));
        watch.open();
        watch.untilEnd();
        return watch.toString();
    }

    private TaskWatch tasks(Step step, String ids) {
        var names = Arrays.stream(ids.split(",")).map(this::task).toList();
        return new TaskWatch(taskStub(step, 120), parent, names);
    }

    private StateWatch states(Step step) {
        var names = Arrays.stream(step.get("states").split(","))
            .map(id -> parent + "/states/" + id).toList();
        return new StateWatch(stateStub(step, 120), names, ByteString.copyFromUtf8(step.text("token")));
    }

    private String open(Step step, AnyWatch<?> watch) {
        String words = watch.open();
        watches.put(step.get("as"), watch);
        return words;
    }

    private String until(Step step) {
        var watch = watches.get(step.get("as"));
        var wanted = step.words().stream()
            .filter(word -> !List.of("as", "deadline").contains(word.key())).findFirst().orElseThrow();
        return wanted.key().equals("end") ? watch.untilEnd() : watch.until(wanted.key(), wanted.value());
    }

    private String cut(Step step) {
        String name = step.get("as");
        if (watches.containsKey(name)) {
            watches.get(name).cancel();
        } else if (pushes.containsKey(name)) {
            pushes.get(name).cut();
        } else {
            worker.close(name);
        }
        return "";
    }

    private String update(Step step) {
        var answer = stateStub(step, 30).updateState(UpdateStateRequest.newBuilder().setName(state(step))
            .addAllUpdates(Text.updates(step, 0)).setRequestId(step.text("request"))
            .setExpectedRevision(step.number("revision")).build());
        return answer.getRejectedList().stream()
            .map(key -> Text.word("rejected", key.getKey() + ":" + key.getReason())).collect(Collectors.joining());
    }

    private String getState(Step step) {
        var answer = stateStub(step, 30).getState(GetStateRequest.newBuilder().setName(state(step)).build());
        var view = new TreeMap<String, String>();
        answer.getState().getEntriesList().forEach(entry ->
            view.put(step.get("state") + "/" + entry.getKey(), Text.of(entry.getValue())));
        return Text.words(view);
    }

    private String deleteState(Step step) {
        stateStub(step, 30).deleteState(DeleteStateRequest.newBuilder().setName(state(step)).build());
        return "";
    }

    private String pushOpen(Step step) {
        var open = PushOpen.newBuilder().setStateName(state(step)).setWriterId(step.get("writer"));
        if (step.has("lease")) {
            open.setLeaseToken(worker.token(step.get("lease")));
        }
        // Not the blocking stub: both sides of a push send when they like.
        var push = new Push(StateServiceGrpc.newStub(channel), open.build());
        String words = "last=" + push.open();
        pushes.put(step.get("as"), push);
        return words;
    }

    /** The name of the task that the scenario calls so. */
    private String task(String id) {
        return tasks.getOrDefault(id, parent + "/tasks/" + id);
    }

    private String state(Step step) {
        return parent + "/states/" + step.get("state");
    }

    /** A deadline counts from when the stub got it: a stub for each call, which costs nothing. */
    private TaskServiceBlockingStub taskStub(Step step, double otherwise) {
        return TaskServiceGrpc.newBlockingStub(channel)
            .withDeadlineAfter(step.millis("deadline", otherwise), TimeUnit.MILLISECONDS);
    }

    private StateServiceBlockingStub stateStub(Step step, double otherwise) {
        return StateServiceGrpc.newBlockingStub(channel)
            .withDeadlineAfter(step.millis("deadline", otherwise), TimeUnit.MILLISECONDS);
    }
}
