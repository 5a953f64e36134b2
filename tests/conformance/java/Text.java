import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import com.google.protobuf.Duration;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Timestamp;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import duite.v1.Common.Blob;
import duite.v1.Common.ListValue;
import duite.v1.Common.MapEntry;
import duite.v1.Common.MapValue;
import duite.v1.Common.Payload;
import duite.v1.Common.Value;
import duite.v1.StateServiceOuterClass.KeyUpdate;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.SortedMap;
import java.util.TreeMap;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

/** How the scenario writes what travels: values, updates, data, names, errors. */
final class Text {
    private Text() {}

    /** The words of a call that failed: code, reason and the first field that was wrong. */
    static String of(StatusRuntimeException error) {
        String reason = "-", field = "";
        // What the header grpc-status-details-bin says. A client's own errors have none.
        var status = StatusProto.fromThrowable(error);
        try {
            for (Any detail : status == null ? List.<Any>of() : status.getDetailsList()) {
                if (detail.is(ErrorInfo.class)) {
                    var info = detail.unpack(ErrorInfo.class);
                    if (info.getDomain().equals("duite")) {
                        reason = info.getReason();
                    }
                } else if (detail.is(BadRequest.class)) {
                    field = " field=" + detail.unpack(BadRequest.class).getFieldViolations(0).getField();
                }
            }
        } catch (InvalidProtocolBufferException malformed) {
            throw new IllegalStateException("the details of an error cannot be read", malformed);
        }
        return Status.fromThrowable(error).getCode() + " " + reason + field;
    }

    static Value value(String text, long batch) {
        int colon = text.indexOf(':');
        String kind = text.substring(0, colon), rest = text.substring(colon + 1);
        var value = Value.newBuilder();
        switch (kind) {
            case "null" -> value.setNull(true);
            case "bool" -> value.setBoolean(Boolean.parseBoolean(rest));
            case "int" -> value.setInteger(rest.equals("#") ? batch : Long.parseLong(rest));
            case "number" -> value.setNumber(Double.parseDouble(rest));
            case "text" -> value.setText(rest);
            case "time" -> value.setTime(Timestamp.newBuilder().setSeconds(Long.parseLong(rest)));
            case "list" -> {
                var list = ListValue.newBuilder();
                for (String item : items(rest)) {
                    list.addItems(value("int:" + item, batch));
                }
                value.setList(list);
            }
            case "map" -> {
                var map = MapValue.newBuilder();
                String[] items = items(rest);
                for (int at = 0; at < items.length; at += 2) {
                    map.addEntries(MapEntry.newBuilder()
                        .setKey(items[at]).setValue(value("int:" + items[at + 1], batch)));
                }
                value.setMap(map);
            }
            case "blob" -> {
                String[] items = items(rest);
                value.setBlob(Blob.newBuilder()
                    .setContentType(items[0]).setData(pattern(Integer.parseInt(items[1]))));
            }
            default -> throw new IllegalArgumentException("no kind of value: " + kind);
        }
        return value.build();
    }

    private static String[] items(String text) {
        return text.isEmpty() ? new String[0] : text.split(",");
    }

    static String of(Value value) {
        return switch (value.getKindCase()) {
            case BOOLEAN -> "bool:" + value.getBoolean();
            case INTEGER -> "int:" + value.getInteger();
            case NUMBER -> String.format(Locale.ROOT, "number:%.3f", value.getNumber());
            case TEXT -> "text:" + value.getText();
            case TIME -> "time:" + value.getTime().getSeconds();
            case BLOB -> "blob:" + value.getBlob().getContentType() + "," + sum(value.getBlob().getData());
            case LIST -> value.getList().getItemsList().stream()
                .map(item -> "" + item.getInteger()).collect(Collectors.joining(",", "list:", ""));
            case MAP -> value.getMap().getEntriesList().stream()
                .map(entry -> entry.getKey() + "," + entry.getValue().getInteger())
                .collect(Collectors.joining(",", "map:", ""));
            // Also a kind that this client does not know.
            default -> "null:";
        };
    }

    /** An update such as {@code add=n:int:5}; none for words that are no updates. */
    static KeyUpdate update(Step.Word word, long batch) {
        if (word.key().equals("delete")) {
            return KeyUpdate.newBuilder().setKey(word.value()).setDelete(true).build();
        }
        int colon = word.value().indexOf(':');
        var update = KeyUpdate.newBuilder().setKey(word.value().substring(0, colon));
        Value value = value(word.value().substring(colon + 1), batch);
        switch (word.key()) {
            case "put" -> update.setPut(value);
            case "add" -> update.setAdd(value);
            case "max" -> update.setMax(value);
            case "min" -> update.setMin(value);
            default -> throw new IllegalArgumentException("no update: " + word.key());
        }
        return update.build();
    }

    static List<KeyUpdate> updates(Step step, long batch) {
        var kinds = Set.of("put", "add", "max", "min", "delete");
        return step.words().stream().filter(word -> kinds.contains(word.key()))
            .map(word -> update(word, batch)).toList();
    }

    static Payload payload(String text) {
        ByteString data = text.startsWith("@")
            ? pattern(Integer.parseInt(text.substring(1))) : ByteString.copyFromUtf8(text);
        return Payload.newBuilder().setContentType("text/plain").setData(data).build();
    }

    /** The word for it, with a space before; nothing where it is empty. */
    static String word(String key, Payload payload) {
        ByteString data = payload.getData();
        return word(key, data.size() <= 100 ? data.toStringUtf8() : "@" + sum(data));
    }

    static String word(String key, String value) {
        return value.isEmpty() ? "" : " " + key + "=" + value;
    }

    /** A word for each entry, {@code key=NAME:VALUE}. */
    static String words(String key, Map<String, String> map) {
        return new TreeMap<>(map).entrySet().stream()
            .map(entry -> word(key, entry.getKey() + ":" + entry.getValue())).collect(Collectors.joining());
    }

    /** A view: a word for each entry, with a space before. */
    static String words(SortedMap<String, String> view) {
        return view.entrySet().stream()
            .map(entry -> " " + entry.getKey() + "=" + entry.getValue()).collect(Collectors.joining());
    }

    private static ByteString pattern(int size) {
        byte[] bytes = new byte[size];
        for (int at = 0; at < size; at++) {
            bytes[at] = (byte) (at % 251);
        }
        return ByteString.copyFrom(bytes);
    }

    private static String sum(ByteString data) {
        long sum = IntStream.range(0, data.size()).mapToLong(at -> data.byteAt(at) & 0xff).sum();
        return data.size() + "," + sum;
    }

    /** The id at the end of a name. */
    static String id(String name) {
        return name.substring(name.lastIndexOf('/') + 1);
    }

    /** An enum's value without the prefix that names the enum. */
    static String of(String prefix, Enum<?> value) {
        return value.name().substring(prefix.length());
    }

    static Duration duration(double seconds) {
        long nanos = Math.round(seconds * 1e9);
        return Duration.newBuilder()
            .setSeconds(nanos / 1_000_000_000).setNanos((int) (nanos % 1_000_000_000)).build();
    }
}
