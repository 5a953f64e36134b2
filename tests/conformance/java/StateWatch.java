import com.google.protobuf.ByteString;
import duite.v1.StateServiceGrpc.StateServiceBlockingStub;
import duite.v1.StateServiceOuterClass.KeyChange;
import duite.v1.StateServiceOuterClass.WatchStateRequest;
import duite.v1.StateServiceOuterClass.WatchStateResponse;
import duite.v1.Watch.WatchOptions;
import java.util.Iterator;
import java.util.List;

/** A watch of states. */
final class StateWatch extends AnyWatch<WatchStateResponse> {
    private final StateServiceBlockingStub stub;
    private final List<String> names;

    StateWatch(StateServiceBlockingStub stub, List<String> names, ByteString token) {
        super(token);
        this.stub = stub;
        this.names = names;
    }

    @Override
    protected Iterator<WatchStateResponse> call(WatchOptions options) {
        return stub.watchState(
            WatchStateRequest.newBuilder().addAllNames(names).setOptions(options).build());
    }

    @Override
    protected void take(WatchStateResponse frame) {
        switch (frame.getFrameCase()) {
            case OPENED -> opened(frame.getOpened());
            case SNAPSHOT -> frame.getSnapshot().getEntriesList().forEach(this::take);
            case SYNCED -> synced(frame.getSynced().getPosition());
            case DELTA -> {
                delta(frame.getDelta().getBaseRevision());
                frame.getDelta().getChangesList().forEach(this::take);
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

    private void take(KeyChange change) {
        String key = Text.id(names.get(change.getTarget())) + "/" + change.getKey();
        switch (change.getChangeCase()) {
            case DELETED -> view.remove(key);
            case STUB -> view.put(key, "stub:" + change.getStub().getContentType());
            default -> view.put(key, Text.of(change.getValue()));
        }
    }
}
