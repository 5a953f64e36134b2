import com.google.protobuf.ByteString;
import duite.v1.Common.Failure;
import duite.v1.WorkerServiceGrpc;
import duite.v1.WorkerServiceGrpc.WorkerServiceBlockingStub;
import duite.v1.WorkerServiceOuterClass.Contribution;
import duite.v1.WorkerServiceOuterClass.FinishTasksRequest;
import duite.v1.WorkerServiceOuterClass.LeaseDirective;
import duite.v1.WorkerServiceOuterClass.LeaseTasksRequest;
import duite.v1.WorkerServiceOuterClass.LeaseStatus.Disposition;
import duite.v1.WorkerServiceOuterClass.ReleaseLeasesRequest;
import duite.v1.WorkerServiceOuterClass.RenewLeasesRequest;
import duite.v1.WorkerServiceOuterClass.TaskOutcome;
import duite.v1.WorkerServiceOuterClass.WatchLeasesRequest;
import duite.v1.WorkerServiceOuterClass.WatchLeasesResponse;
import io.grpc.Channel;
import io.grpc.Context;
import io.grpc.protobuf.StatusProto;
import java.util.HashMap;
import java.util.Iterator;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.CancellationException;
import java.util.concurrent.TimeUnit;

/** What runs tasks: a method for each verb. */
final class Worker {
    private record Lease(ByteString token, String worker) {}

    private record Directives(Context.CancellableContext call, Iterator<WatchLeasesResponse> frames) {}

    private final Channel channel;
    private final String parent;
    private final Map<String, Push> pushes;
    private final Map<String, Lease> leases = new HashMap<>();
    private final Map<String, Directives> directives = new HashMap<>();
    /** Made anew at each start of the process, one for each worker. */
    private final Map<String, String> instances = new HashMap<>();

    Worker(Channel channel, String parent, Map<String, Push> pushes) {
        this.channel = channel;
        this.parent = parent;
        this.pushes = pushes;
    }

    String carryOut(Step step) {
        return switch (step.verb()) {
            case "lease" -> lease(step);
            case "renew" -> renew(step);
            case "release" -> release(step);
            case "finish" -> finish(step);
            case "directives" -> directives(step);
            case "directive" -> directive(step);
            default -> throw new IllegalArgumentException("no such verb: " + step.verb());
        };
    }

    ByteString token(String lease) {
        return leases.get(lease).token();
    }

    private String lease(Step step) {
        String worker = step.get("worker");
        // A long poll: its deadline is later than its wait, unless the scenario wants it otherwise.
        var answer = stub(step, 30).leaseTasks(LeaseTasksRequest.newBuilder().setParent(parent)
            .addTaskTypes(step.get("type")).setMaxTasks(1)
            .setWait(Text.duration(Double.parseDouble(step.get("wait"))))
            .setWorkerId(worker).setInstanceUid(instance(worker)).build());
        if (answer.getLeasesCount() == 0) {
            return "none";
        }
        var lease = answer.getLeases(0);
        leases.put(step.get("as"), new Lease(lease.getLeaseToken(), worker));
        return "task=" + Text.id(lease.getTask().getName()) + " attempt=" + lease.getTask().getAttempt()
            + Text.word("input", lease.getTask().getInput())
            + Text.words("label", lease.getTask().getLabelsMap());
    }

    private String renew(Step step) {
        var lease = step.has("token")
            ? new Lease(ByteString.copyFromUtf8(step.get("token")), "w1") : leases.get(step.get("lease"));
        var answer = stub(step, 30).renewLeases(RenewLeasesRequest.newBuilder()
            .addLeaseTokens(lease.token())
            .setWorkerId(lease.worker()).setInstanceUid(instance(lease.worker())).build());
        return disposition(answer.getStatuses(0).getDisposition());
    }

    private String release(Step step) {
        stub(step, 30).releaseLeases(
            ReleaseLeasesRequest.newBuilder().addLeaseTokens(token(step.get("lease"))).build());
        return "";
    }

    private String finish(Step step) {
        var outcome = TaskOutcome.newBuilder().setLeaseToken(token(step.get("lease")));
        if (step.has("failure")) {
            outcome.setFailure(failure(step));
        } else if (step.has("cancelled")) {
            outcome.setCancelled(true);
        } else {
            outcome.setOutput(Text.payload(step.text("output")));
        }
        if (step.has("flushed")) {
            outcome.addFlushed(pushes.get(step.get("flushed")).mark());
        }
        if (step.has("contribute")) {
            String[] parts = step.get("contribute").split(":", 2);
            outcome.addContributions(Contribution.newBuilder().setStateName(parent + "/states/" + parts[0])
                .addUpdates(Text.update(new Step.Word("add", parts[1]), 0)));
        }
        var result = stub(step, 30)
            .finishTasks(FinishTasksRequest.newBuilder().addOutcomes(outcome).build()).getResults(0);
        if (result.hasError()) {
            // An outcome stands or falls by itself: its error is one as a call's own would be.
            throw StatusProto.toStatusRuntimeException(result.getError());
        }
        return "task=" + Text.id(result.getTask().getName());
    }

    private static Failure failure(Step step) {
        var failure = Failure.newBuilder().setType(step.get("failure")).setMessage(step.text("message"))
            .setStackTrace(step.text("stack")).setRuntime(step.text("runtime"))
            .setRetryable(step.has("retryable"));
        if (step.has("category")) {
            failure.setCategory(Failure.Category.valueOf("CATEGORY_" + step.get("category")));
        }
        if (step.has("cause")) {
            failure.setCause(Failure.newBuilder()
                .setType(step.get("cause")).setMessage(step.text("cause-message")));
        }
        if (step.has("meta")) {
            String[] meta = step.get("meta").split(":", 2);
            failure.putMetadata(meta[0], meta[1]);
        }
        if (step.has("details")) {
            failure.setDetails(Text.payload(step.get("details")));
        }
        if (step.has("delay")) {
            failure.setRetryDelay(Text.duration(Double.parseDouble(step.get("delay"))));
        }
        return failure.build();
    }

    private String directives(Step step) {
        String worker = step.get("worker");
        var request = WatchLeasesRequest.newBuilder().setParent(parent)
            .setWorkerId(worker).setInstanceUid(instance(worker)).build();
        var call = Context.current().withCancellation();
        call.run(() -> directives.put(step.get("as"),
            new Directives(call, stub(step, 120).watchLeases(request))));
        return "";
    }

    private String directive(Step step) {
        ByteString token = token(step.get("lease"));
        var frames = directives.get(step.get("as")).frames();
        while (frames.hasNext()) {
            // Without a directive in the frame this is an empty one: for no lease in particular.
            WatchLeasesResponse frame = frames.next();
            LeaseDirective directive = frame.getDirective();
            boolean mine = directive.getLeaseToken().isEmpty() || directive.getLeaseToken().equals(token);
            if (frame.hasDirective() && mine) {
                return disposition(directive.getDisposition()) + Text.word("reason", directive.getReason());
            }
        }
        throw new IllegalStateException("the stream of directives has ended");
    }

    void close(String name) {
        directives.get(name).call().cancel(new CancellationException("closed"));
    }

    private String instance(String worker) {
        return instances.computeIfAbsent(worker, name -> UUID.randomUUID().toString());
    }

    private static String disposition(Disposition disposition) {
        return Text.of("DISPOSITION_", disposition);
    }

    private WorkerServiceBlockingStub stub(Step step, double otherwise) {
        return WorkerServiceGrpc.newBlockingStub(channel)
            .withDeadlineAfter(step.millis("deadline", otherwise), TimeUnit.MILLISECONDS);
    }
}
