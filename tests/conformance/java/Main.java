import io.grpc.ManagedChannelBuilder;
import io.grpc.StatusRuntimeException;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;

/** Carries out a scenario and prints what it saw: client HOST:PORT NAMESPACE SCENARIO. */
final class Main {
    private Main() {}

    public static void main(String[] args) throws Exception {
        // `System.out` writes what the locale says, and that may be less than UTF-8.
        var out = new PrintStream(
            new FileOutputStream(FileDescriptor.out), true, StandardCharsets.UTF_8);
        var channel = ManagedChannelBuilder.forTarget(args[0]).usePlaintext().build();
        var client = new Client(channel, "namespaces/" + args[1]);
        int number = 0;
        try {
            for (String line : Files.readAllLines(Path.of(args[2]))) {
                if (line.isEmpty() || line.startsWith("#") || line.startsWith(">")) {
                    continue;
                }
                number++;
                String words;
                try {
                    words = ("ok " + client.carryOut(Step.parse(line)).strip()).strip();
                } catch (StatusRuntimeException error) {
                    words = Text.of(error);
                }
                out.println(number + " " + words);
            }
        } catch (Exception bug) {
            System.err.println("step " + number + ":");
            bug.printStackTrace();
            System.exit(1);
        }
        channel.shutdownNow();
    }
}
