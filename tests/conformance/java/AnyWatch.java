import com.google.protobuf.ByteString;
import duite.v1.Common.Position;
import duite.v1.Watch.WatchOpened;
import duite.v1.Watch.WatchOptions;
import io.grpc.Context;
import java.util.Iterator;
import java.util.Objects;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.concurrent.CancellationException;
import java.util.function.BooleanSupplier;

/**
 * What all watches share, as proto/duite/v1/watch.proto tells it. The view and the token outlive
 * the call, so that another call goes on where one broke.
 */
abstract class AnyWatch<F> {
    protected final SortedMap<String, String> view = new TreeMap<>();
    private ByteString token;
    private long revision = -1;
    private boolean synced, complete, chained = true;
    private String start;
    /** By which a call of a blocking stub can be cancelled. */
    private Context.CancellableContext call;
    private Iterator<F> frames;

    protected AnyWatch(ByteString token) {
        this.token = token;
    }

    /** Opens the call. */
    protected abstract Iterator<F> call(WatchOptions options);

    /** Takes one frame into the view. */
    protected abstract void take(F frame);

    /** Opens the watch, or opens it again, and reads up to the complete view. */
    String open() {
        synced = false;
        complete = false;
        call = Context.current().withCancellation();
        var options = WatchOptions.newBuilder().setResumeToken(token).build();
        call.run(() -> frames = call(options));
        readUntil(() -> synced);
        return "start=" + start + this;
    }

    String until(String name, String wanted) {
        String value = wanted.equals("absent") ? null : wanted;
        readUntil(() -> complete && Objects.equals(view.get(name), value));
        return words();
    }

    String untilEnd() {
        // False is the end with OK; any other end is an exception.
        while (frames.hasNext()) {
            take(frames.next());
        }
        return words();
    }

    void cancel() {
        call.cancel(new CancellationException("cut"));
    }

    private void readUntil(BooleanSupplier enough) {
        while (!enough.getAsBoolean()) {
            if (!frames.hasNext()) {
                throw new IllegalStateException("the watch has ended, its view is" + this);
            }
            take(frames.next());
        }
    }

    protected void opened(WatchOpened opened) {
        start = Text.of("START_", opened.getStart());
        if (opened.getStart() == WatchOpened.Start.START_SNAPSHOT) {
            reset();
        } else {
            chained &= revision == opened.getPosition().getRevision();
        }
    }

    protected void reset() {
        view.clear();
        revision = -1;
        complete = false;
    }

    protected void synced(Position position) {
        synced = true;
        reached(position);
    }

    /** A part of a delta begins. */
    protected void delta(long base) {
        chained &= base == revision;
        complete = false;
    }

    /** The view is complete: this is where to resume. */
    protected void reached(Position position) {
        chained &= position.getRevision() >= revision;
        revision = position.getRevision();
        token = position.getResumeToken();
        complete = true;
    }

    private String words() {
        return this + " chain=" + (chained ? "ok" : "broken");
    }

    /** The view, each word with a space before. */
    @Override
    public String toString() {
        return Text.words(view);
    }
}
