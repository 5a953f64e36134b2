//! Traces as the languages print them, shortened at the outer end.

use proptest::prelude::*;

use super::*;

fn found(stack: &str) -> String {
    location(&Failure {
        stack_trace: stack.into(),
        ..Failure::default()
    })
}

#[track_caller]
fn all_are(cases: &[(&str, &str)]) {
    for (expected, stack) in cases {
        assert_eq!(found(stack), *expected, "in\n{stack}");
    }
}

#[test]
fn what_the_failure_says_goes_before_what_its_stack_shows() {
    let failure = Failure {
        location: "solver.py:step".into(),
        stack_trace: "  File \"/app/other.py\", line 1, in other".into(),
        ..Failure::default()
    };
    assert_eq!(location(&failure), "solver.py:step");
}

#[test]
fn python_has_the_innermost_frame_last_and_libraries_do_not_count() {
    all_are(&[
        (
            "solver.py:step",
            r#"Traceback (most recent call last):
  File "/app/solver.py", line 10, in <module>
    try: S().step("{")
         ^^^^^^^^^^^^^
  File "/app/solver.py", line 4, in step
    return json.loads(x)
           ^^^^^^^^^^^^^
  File "/opt/python/lib/python3.11/json/__init__.py", line 346, in loads
    return _default_decoder.decode(s)
           ^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/opt/python/lib/python3.11/json/decoder.py", line 353, in raw_decode
    obj, end = self.scan_once(s, idx)
               ^^^^^^^^^^^^^^^^^^^^^^
json.decoder.JSONDecodeError: Expecting property name: line 1 column 2 (char 1)
"#,
        ),
        (
            "solver.py:run",
            r#"Traceback (most recent call last):
  File "/app/solver.py", line 7, in run
    S().step("{")
  File "/app/solver.py", line 4, in step
    return json.loads(x)
ValueError: no

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/app/solver.py", line 13, in <module>
    try: run()
         ^^^^^
  File "/app/solver.py", line 9, in run
    raise RuntimeError("no") from e
RuntimeError: no
"#,
        ),
        (
            "solver.py:g",
            r#"  + Exception Group Traceback (most recent call last):
  |   File "/app/solver.py", line 19, in <module>
  |     try: asyncio.run(g())
  |   File "/opt/python/lib/python3.11/asyncio/runners.py", line 190, in run
  |     return runner.run(main)
  |   File "/app/solver.py", line 18, in g
  |     async with asyncio.TaskGroup() as t: t.create_task(f())
  |   File "/opt/python/lib/python3.11/asyncio/taskgroups.py", line 145, in __aexit__
  |     raise me from None
  | ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception)
  +-+---------------- 1 ----------------
    | Traceback (most recent call last):
    |   File "/app/solver.py", line 16, in f
    |     async def f(): raise KeyError(1)
    | KeyError: 1
    +------------------------------------
"#,
        ),
        (
            "app.py:<lambda>",
            r#"Traceback (most recent call last):
  File "C:\work\app.py", line 3, in <lambda>
    f = lambda: json.loads("")
  File "C:\Python311\Lib\json\__init__.py", line 346, in loads
    return _default_decoder.decode(s)
"#,
        ),
        (
            "solver.py",
            r#"Traceback (most recent call last):
  File "<frozen importlib._bootstrap>", line 241, in _call_with_frames_removed
  File "/app/solver.py", line 3
    def (
        ^
SyntaxError: invalid syntax
"#,
        ),
        // Nothing but libraries: the innermost of them.
        (
            "pool.py:worker",
            r#"Traceback (most recent call last):
  File "/venv/lib/python3.12/site-packages/duite/worker.py", line 9, in run
  File "/usr/lib/python3.12/multiprocessing/pool.py", line 125, in worker
    result = (True, func(*args, **kwds))
"#,
        ),
    ]);
}

#[test]
fn node_has_the_innermost_frame_first() {
    all_are(&[
        // The same function, called by its name or in an object.
        ("app.js:check", "Error: x\n    at check (/app/app.js:2:9)"),
        (
            "app.js:check",
            "Error: x\n    at Object.check [as test] (/app/app.js:2:9)",
        ),
        (
            "app.js:Solver.step",
            "Error: x\n    at exports.fail (/app/node_modules/lib/index.js:1:48)\n    at Solver.step (/app/app.js:2:28)\n    at Object.<anonymous> (/app/app.js:3:20)\n    at Module._compile (node:internal/modules/cjs/loader:1521:14)\n    at Function.executeUserEntryPoint [as runMain] (node:internal/modules/run_main:164:12)\n    at node:internal/main/run_main_module:28:49",
        ),
        (
            "app.js:<anonymous>",
            "TypeError: q\n    at /app/app.js:4:26\n    at Array.map (<anonymous>)\n    at Object.<anonymous> (/app/app.js:4:11)",
        ),
        (
            "app.js:Object.<anonymous>",
            "SyntaxError: Expected property name or '}' in JSON at position 1\n    at JSON.parse (<anonymous>)\n    at Object.<anonymous> (/app/app.js:5:12)\n    at Module._compile (node:internal/modules/cjs/loader:1521:14)",
        ),
        (
            "app.js:eval",
            "ReferenceError: nope is not defined\n    at eval (eval at <anonymous> (/app/app.js:6:7), <anonymous>:1:1)\n    at Object.<anonymous> (/app/app.js:6:7)",
        ),
        (
            "solve.mjs:Solver.run",
            "Error: x\n    at async Solver.run (file:///C:/app/solve.mjs?v=17:2:67)\n    at process.processTicksAndRejections (node:internal/process/task_queues:95:5)",
        ),
        (
            "app.ts:new Pool",
            "Error: x\n    at new Pool [as Parent] (C:\\app\\app.ts:2:67)\n    at async Promise.all (index 0)",
        ),
        (
            "task_queues:process.processTicksAndRejections",
            "Error: x\n    at process.processTicksAndRejections (node:internal/process/task_queues:95:5)",
        ),
    ]);
}

#[test]
fn go_counts_from_the_panic_on_and_closures_are_their_function() {
    all_are(&[
        (
            "main.go:main.(*W).step",
            "goroutine 1 [running]:\nruntime/debug.Stack()\n\t/usr/lib/go-1.19/src/runtime/debug/stack.go:24 +0x65\nmain.try[...].func1()\n\t/tmp/tr/go/main.go:6 +0x2c\npanic({0x48bd80, 0x4b8140})\n\t/usr/lib/go-1.19/src/runtime/panic.go:884 +0x212\nmain.(*W).step(...)\n\t/tmp/tr/go/main.go:4\nmain.main.func1.1(...)\n\t/tmp/tr/go/main.go:5\nmain.main()\n\t/tmp/tr/go/main.go:7 +0x2b\n",
        ),
        (
            "main.go:main.main",
            "goroutine 18 [running]:\nruntime/debug.Stack()\n\t/usr/lib/go-1.19/src/runtime/debug/stack.go:24 +0x65\nmain.main.func2()\n\t/tmp/tr/go/main.go:9 +0x26\ncreated by main.main\n\t/tmp/tr/go/main.go:9 +0x10a\n\ngoroutine 1 [select]:\nmain.other()\n\t/tmp/tr/go/other.go:8 +0x6c\n",
        ),
        (
            "solve.go:solver.Map",
            "panic: boom [recovered]\n\tpanic: boom\n\ngoroutine 7 [running]:\npanic({0x1?, 0x2?})\n\t/usr/local/go/src/runtime/panic.go:884 +0x212\nexample.com/acme/demo/solver.Map[...].func1.2({0xc00, 0x1}, 0x3)\n\t/home/u/solver/solve.go:12 +0x30\ncreated by example.com/acme/demo.Run in goroutine 1\n\t/home/u/run.go:9 +0x10a\n",
        ),
        (
            "run.go:demo.Run",
            "goroutine 7 [running]:\ngithub.com/lib/pq.(*conn).recv(0x1)\n\t/home/u/go/pkg/mod/github.com/lib/pq@v1.10/conn.go:12 +0x30\ncreated by example.com/acme/demo.Run in goroutine 1\n\t/home/u/run.go:9 +0x10a\n",
        ),
    ]);
}

#[test]
fn java_skips_its_own_packages_and_the_numbers_of_lambdas_and_classes() {
    all_are(&[
        (
            "Solver.java:Solver$In.step",
            "java.lang.NumberFormatException: For input string: \"x\"\n\tat java.base/java.lang.NumberFormatException.forInputString(NumberFormatException.java:67)\n\tat java.base/java.lang.Integer.parseInt(Integer.java:668)\n\tat Solver$In.step(Solver.java:2)\n\tat Solver.main(Solver.java:4)\n\tat java.base/jdk.internal.reflect.NativeMethodAccessorImpl.invoke0(Native Method)\n",
        ),
        (
            "Solver.java:Solver.main",
            "java.lang.IllegalStateException: b\n\tat com.acme.Solver.lambda$main$0(Solver.java:5)\n\tat java.base/java.lang.Iterable.forEach(Iterable.java:75)\nCaused by: java.lang.RuntimeException: c\n\tat com.acme.Other.run(Other.java:1)\n\t... 10 more\n",
        ),
        (
            "Solver.java:Solver.run",
            "java.lang.NullPointerException\n\tat java.base/java.util.Objects.requireNonNull(Objects.java:209)\n\tat app//com.acme.Solver$1.run(Solver.java:6) ~[app.jar:1.0]\n",
        ),
        (
            "Main.kt:MainKt.main",
            "io.grpc.StatusRuntimeException: UNAVAILABLE\n\tat io.grpc.stub.ClientCalls.blockingUnaryCall(ClientCalls.java:166)\n\tat com.acme.MainKt$$Lambda$14/0x0000000800c03000.run(Unknown Source)\n\tat com.acme.MainKt.main(Main.kt:8)\n",
        ),
        (
            "NativeMethodAccessorImpl.invoke0",
            "x\n\tat java.base/jdk.internal.reflect.NativeMethodAccessorImpl.invoke0(Native Method)\n\tat java.base/java.lang.Thread.run(Thread.java:833)\n",
        ),
    ]);
}

#[test]
fn rust_counts_from_the_panic_on_without_hashes_generics_and_closures() {
    all_are(&[
        (
            "main.rs:main::gen",
            r"   0: main::main::{{closure}}
             at ./rust/main.rs:5:64
   1: <alloc::boxed::Box<dyn for<'a, 'b> core::ops::function::Fn<(&'a std::panic::PanicHookInfo<'b>,), Output = ()> + core::marker::Sync + core::marker::Send> as core::ops::function::Fn<(&std::panic::PanicHookInfo,)>>::call
             at /rustc/59807616e1fa2540724bfbac14d7976d7e4a3860/library/alloc/src/boxed.rs:2254:9
   4: std::sys::backtrace::__rust_end_short_backtrace::<std::panicking::panic_handler::{closure#0}, !>
             at /rustc/59807616e1fa2540724bfbac14d7976d7e4a3860/library/std/src/sys/backtrace.rs:182:18
   5: __rustc::rust_begin_unwind
             at /rustc/59807616e1fa2540724bfbac14d7976d7e4a3860/library/std/src/panicking.rs:689:5
   7: core::panicking::panic_bounds_check
             at /rustc/59807616e1fa2540724bfbac14d7976d7e4a3860/library/core/src/panicking.rs:271:5
   8: main::gen::{{closure}}
             at ./rust/main.rs:4:99
   9: main::gen
             at ./rust/main.rs:4:109
  10: <main::W as main::R>::run
             at ./rust/main.rs:3:73
  14: std::panicking::catch_unwind
             at /rustc/59807616e1fa2540724bfbac14d7976d7e4a3860/library/std/src/panicking.rs:544:19
  30: main
  31: __libc_start_call_main
             at ./csu/../sysdeps/nptl/libc_start_call_main.h:58:16
  33: _start
",
        ),
        (
            "demo::Solver::step",
            "   0: std::backtrace::Backtrace::create\n   1: <demo::Solver<T> as demo::Step<alloc::vec::Vec<u8>>>::step::h0123456789abcdef\n   2: demo::main::h0123456789abcdef\n",
        ),
        (
            "demo::map",
            "   0:     0x55d0c8b0a1c3 - core::panicking::panic::h0123456789abcdef\n   1:     0x55d0c8b0a1c4 - demo[1a2b3c]::map::<u32, fn(u8) -> u8>::{closure#0}\n",
        ),
        (
            "solver.rs:demo::solve",
            "   0: <T as core::convert::Into<U>>::into\n             at /rustc/59807616/library/core/src/convert/mod.rs:758:9\n   1: serde_json::de::from_str\n             at /root/.cargo/registry/src/index.crates.io-6f17d22bba15001f/serde_json-1.0.1/src/de.rs:2699:5\n   2: duite::worker::run\n   3: demo::solve::{{closure}}\n             at ./src/solver.rs:12:5\n",
        ),
        (
            "mod.rs:T::into",
            "   0: <T as core::convert::Into<U>>::into\n             at /rustc/59807616/library/core/src/convert/mod.rs:758:9\n",
        ),
    ]);
}

#[test]
fn what_is_no_stack_trace_has_no_location() {
    all_are(&[
        ("", ""),
        ("", "boom"),
        ("", "meet at noon (or at one)\n12: 30\nFile x"),
        ("", "  File \"x"),
        ("", "\t/app/main.go:12 +0x1d"),
    ]);
}

#[test]
fn a_long_location_is_cut() {
    let name = "é".repeat(1_000);
    let stack = format!("  File \"/app/{name}.py\", line 1, in {name}");
    assert!(found(&stack).len() <= MAX_BYTES);
}

/// Pieces that parsers look for, in any order.
fn pieces() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "  File \"",
            "\", line 3, in ",
            "Traceback (most recent call last):",
            "    at ",
            " (",
            ")",
            ":1:2",
            "<anonymous>",
            "eval at ",
            "goroutine 1 [running]:",
            "\t",
            ".go",
            " +0x1",
            "panic(",
            "created by ",
            "[...]",
            "$$Lambda",
            "lambda$",
            "/",
            "\\",
            "  1: ",
            "::",
            "<",
            ">",
            " as ",
            "->",
            "{{closure}}",
            "::h0123456789abcdef",
            " - ",
            "0x",
            "\n",
            "\r\n",
            "é",
            "core::panicking::",
            "core::panicking::panic",
            "[as ",
            "?",
            "#",
            ".",
            "$",
        ])
        .prop_map(str::to_owned),
        ".{0,8}",
    ];
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn foreign_text_is_read_without_a_panic(stack in pieces(), bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(found(&stack).len() <= MAX_BYTES);
        prop_assert!(found(&String::from_utf8_lossy(&bytes)).len() <= MAX_BYTES);
    }

    #[test]
    fn lines_and_addresses_make_no_difference(line in 1_u32..100_000, address in 0_u64..u64::MAX) {
        let go = format!("goroutine {line} [running]:\nmain.step({address:#x})\n\t/app/main.go:{line} +{address:#x}\n");
        prop_assert_eq!(found(&go), "main.go:main.step");
        let rust = format!("   {line}: {address:#018x} - demo::step::h{address:016x}\n             at /app/src/main.rs:{line}:{line}\n");
        prop_assert_eq!(found(&rust), "main.rs:demo::step");
    }
}
