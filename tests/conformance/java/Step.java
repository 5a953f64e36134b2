import java.util.Arrays;
import java.util.List;

/** One step of the scenario: a verb and its words {@code key=value}, in their order. */
record Step(String verb, List<Word> words) {
    record Word(String key, String value) {}

    static Step parse(String line) {
        String[] parts = line.split(" ");
        return new Step(parts[0], Arrays.stream(parts).skip(1).map(Step::word).toList());
    }

    private static Word word(String text) {
        int equals = text.indexOf('=');
        return new Word(text.substring(0, equals), text.substring(equals + 1));
    }

    boolean has(String key) {
        return words.stream().anyMatch(word -> word.key().equals(key));
    }

    String get(String key) {
        return words.stream().filter(word -> word.key().equals(key)).findFirst()
            .orElseThrow(() -> new IllegalArgumentException(verb + " lacks " + key)).value();
    }

    /** Empty where there is no such word, which is what protobuf takes a text left out for. */
    String text(String key) {
        return has(key) ? get(key) : "";
    }

    int number(String key) {
        return has(key) ? Integer.parseInt(get(key)) : 0;
    }

    long millis(String key, double otherwise) {
        return Math.round((has(key) ? Double.parseDouble(get(key)) : otherwise) * 1000);
    }
}
