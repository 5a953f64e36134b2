//! Compiles `proto/` without protoc.
//!
//! Two descriptor sets come out of one set of files. The one that reflection serves is what the
//! files say. The one that code is generated from has every field of type `duite.v1.Value` in the
//! messages of [`OPAQUE_VALUES`] turned into `bytes`: an embedded message and `bytes` have the same
//! wire type (protobuf encoding guide, "length-delimited records"), so the server stores and
//! forwards values without decoding them.

use std::{env, error::Error, fs, path::PathBuf};

use prost_types::{
    FileDescriptorProto,
    field_descriptor_proto::{Label, Type},
};

/// Messages whose `Value` fields the generated code sees as bytes.
const OPAQUE_VALUES: [&str; 3] = ["KeyUpdate", "StateEntry", "KeyChange"];
const VALUE: &str = ".duite.v1.Value";

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
    let patched: usize = descriptors.file.iter_mut().map(make_values_opaque).sum();
    if patched == 0 {
        return Err("no field of type Value was found to make opaque".into());
    }
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .extern_path(".google.rpc", "::tonic_types::pb")
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)?;
    Ok(())
}

/// Turns the `Value` fields of the opaque messages of `file` into `bytes`; says how many.
fn make_values_opaque(file: &mut FileDescriptorProto) -> usize {
    if file.package() != "duite.v1" {
        return 0;
    }
    let messages = file.message_type.iter_mut();
    let opaque = messages.filter(|message| OPAQUE_VALUES.contains(&message.name()));
    let fields = opaque.flat_map(|message| message.field.iter_mut());
    let mut patched = 0;
    for field in fields.filter(|field| field.type_name() == VALUE) {
        debug_assert_ne!(field.label(), Label::Repeated);
        field.set_type(Type::Bytes);
        field.type_name = None;
        patched += 1;
    }
    patched
}
