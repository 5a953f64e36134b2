//! Compiles `proto/` without protoc.
//!
//! Two descriptor sets come out of one set of files. The one that reflection serves is what the
//! files say. The one that code is generated from has some fields of a message type turned into
//! `bytes`: an embedded message and `bytes` have the same wire type (protobuf encoding guide,
//! "length-delimited records"). So the server stores and forwards values without decoding them
//! ([`OPAQUE_VALUES`]), reads pushed batches in place, and encodes a delta once for all who watch
//! ([`OPAQUE_FIELDS`]).

use std::{env, error::Error, fs, path::PathBuf};

use prost_types::{
    FileDescriptorProto,
    field_descriptor_proto::{Label, Type},
};

/// Messages whose `Value` fields the generated code sees as bytes.
const OPAQUE_VALUES: [&str; 3] = ["KeyUpdate", "StateEntry", "KeyChange"];
const VALUE: &str = ".duite.v1.Value";
/// Other fields that the generated code sees as bytes, as (message, field).
const OPAQUE_FIELDS: [(&str, &str); 2] = [
    ("PushStateRequest", "batches"),
    ("WatchStateResponse", "delta"),
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let mut files: Vec<PathBuf> = fs::read_dir("proto/duite/v1")?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "proto")
    });
    files.sort();

    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(&files)?;
    fs::write(
        out.join("duite_descriptor.bin"),
        compiler.encode_file_descriptor_set(),
    )?;

    let mut descriptors = compiler.file_descriptor_set();
    let files = descriptors.file.iter_mut();
    let (values, others) = files.map(make_opaque).fold((0, 0), add);
    if values == 0 || others != OPAQUE_FIELDS.len() {
        return Err(format!("{values} values and {others} other fields became opaque").into());
    }
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .extern_path(".google.rpc", "::tonic_types::pb")
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)?;
    Ok(())
}

/// Turns the opaque fields of `file` into `bytes`; says how many values and others they were.
fn make_opaque(file: &mut FileDescriptorProto) -> (usize, usize) {
    if file.package() != "duite.v1" {
        return (0, 0);
    }
    let mut patched = (0, 0);
    for message in &mut file.message_type {
        let name = message.name().to_owned();
        for field in &mut message.field {
            if field.type_name() == VALUE && OPAQUE_VALUES.contains(&name.as_str()) {
                patched.0 += 1;
            } else if OPAQUE_FIELDS.contains(&(name.as_str(), field.name())) {
                patched.1 += 1;
            } else {
                continue;
            }
            debug_assert_ne!(field.label(), Label::Repeated);
            field.set_type(Type::Bytes);
            field.type_name = None;
        }
    }
    patched
}

fn add(a: (usize, usize), b: (usize, usize)) -> (usize, usize) {
    (a.0 + b.0, a.1 + b.1)
}
