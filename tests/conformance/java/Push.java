import duite.v1.StateServiceGrpc.StateServiceStub;
import duite.v1.StateServiceOuterClass.PushOpen;
import duite.v1.StateServiceOuterClass.PushStateRequest;
import duite.v1.StateServiceOuterClass.PushStateResponse;
import duite.v1.StateServiceOuterClass.UpdateBatch;
import duite.v1.StateServiceOuterClass.UpdateBatches;
import duite.v1.WorkerServiceOuterClass.WriterMark;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.StreamObserver;
import java.util.TreeMap;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;

/**
 * The writer of one state. What is not acknowledged is kept, so that the same writer can open again
 * after a break and send what is missing: each batch counts once.
 */
final class Push {
    private final StateServiceStub stub;
    private final PushOpen open;
    private final TreeMap<Long, UpdateBatch> unacknowledged = new TreeMap<>();
    private final StringBuilder rejected = new StringBuilder();
    private ClientCallStreamObserver<PushStateRequest> requests;
    private Answers answers;
    private long window, acked, sent, rewind;

    Push(StateServiceStub stub, PushOpen open) {
        this.stub = stub;
        this.open = open;
    }

    /** Opens the stream. Gives the last batch that is durable. */
    long open() {
        answers = new Answers();
        // What the asynchronous stub gives is always one that can be cancelled.
        requests = (ClientCallStreamObserver<PushStateRequest>)
            stub.withDeadlineAfter(120, TimeUnit.SECONDS).pushState(answers);
        requests.onNext(PushStateRequest.newBuilder().setOpen(open).build());
        PushStateResponse first = answers.next();
        if (first == null || !first.hasOpened()) {
            throw new IllegalStateException("the first frame is not `opened`: " + first);
        }
        window = first.getOpened().getWindow().getMaxUnackedBatches();
        return first.getOpened().getLastSequence();
    }

    /** Opens again after a break and sends what is not durable. */
    String resume() {
        long before = acked, last = open();
        acknowledge(last);
        unacknowledged.values().forEach(this::send);
        return before <= last && last <= sent ? before + ".." + sent : "" + last;
    }

    void push(Step step) {
        long to = step.number("to");
        for (long sequence = step.number("from"); sequence <= to; sequence++) {
            // `onNext` never waits but takes what it is given into memory: the window is the bound.
            while (unacknowledged.size() >= window) {
                read();
            }
            UpdateBatch batch = UpdateBatch.newBuilder().setSequence(sequence)
                .addAllUpdates(Text.updates(step, sequence))
                .setFinal(sequence == to && step.has("final")).build();
            send(batch);
            if (sequence > acked) {
                unacknowledged.put(sequence, batch);
            }
        }
    }

    private void send(UpdateBatch batch) {
        sent = batch.getSequence();
        requests.onNext(PushStateRequest.newBuilder()
            .setBatches(UpdateBatches.newBuilder().addBatches(batch)).build());
    }

    String untilAcked(long wanted) {
        while (acked < wanted) {
            read();
        }
        return "acked=" + acked + takeRejected();
    }

    String untilRewind() {
        while (rewind == 0) {
            read();
        }
        String words = "rewind=" + rewind + takeRejected();
        rewind = 0;
        return words;
    }

    /** Closes the writer's side and reads to the end. */
    String close() {
        requests.onCompleted();
        for (var frame = answers.next(); frame != null; frame = answers.next()) {
            take(frame);
        }
        return "acked=" + acked;
    }

    /** Breaks off, as a lost connection would. What has come and was not read is forgotten. */
    void cut() {
        requests.cancel("cut", null);
    }

    /** The last batch sent. */
    WriterMark mark() {
        return WriterMark.newBuilder().setStateName(open.getStateName())
            .setWriterId(open.getWriterId()).setSequence(sent).build();
    }

    private void read() {
        PushStateResponse frame = answers.next();
        if (frame == null) {
            throw new IllegalStateException("the push has ended, acknowledged is " + acked);
        }
        take(frame);
    }

    private void take(PushStateResponse frame) {
        switch (frame.getFrameCase()) {
            case ACK -> {
                acknowledge(frame.getAck().getAckedSequence());
                window = frame.getAck().getWindow().getMaxUnackedBatches();
                frame.getAck().getRejectedList().forEach(key -> rejected.append(Text.word("rejected",
                    key.getSequence() + ":" + key.getKey() + ":" + key.getReason())));
            }
            case REWIND -> {
                rewind = frame.getRewind().getExpectedSequence();
                unacknowledged.tailMap(rewind).clear();
            }
            // Directives come with renewals too; a frame that this client does not know is skipped.
            default -> { }
        }
    }

    private void acknowledge(long sequence) {
        acked = Math.max(acked, sequence);
        unacknowledged.headMap(acked, true).clear();
    }

    private String takeRejected() {
        String words = rejected.toString();
        rejected.setLength(0);
        return words;
    }

    /** Hands frames from gRPC's thread to the client's. */
    private static final class Answers implements StreamObserver<PushStateResponse> {
        private final LinkedBlockingQueue<Supplier<PushStateResponse>> queue = new LinkedBlockingQueue<>();

        @Override
        public void onNext(PushStateResponse frame) {
            queue.add(() -> frame);
        }

        @Override
        public void onError(Throwable error) {
            queue.add(() -> {
                throw (StatusRuntimeException) error;
            });
        }

        @Override
        public void onCompleted() {
            queue.add(() -> null);
        }

        /** The next frame; null: the stream has ended with OK. */
        PushStateResponse next() {
            try {
                return queue.take().get();
            } catch (InterruptedException interrupted) {
                throw new IllegalStateException(interrupted);
            }
        }
    }
}
