//! The attribute `#[duite::task]`; it is used through the crate `duite`.

mod expand;

/// Makes an `async fn` a decorated task: calling it schedules it and gives its
/// `duite::TaskHandle`.
///
/// What `duite::create_task` does is done for the call: a span, failures and panics caught, logged
/// once, counted, and reported where an address is configured.
///
/// ```ignore
/// /// Reads a mesh.
/// #[duite::task]
/// async fn read_mesh(path: String) -> Result<Mesh, MeshError> { … }
///
/// let mesh = read_mesh("wing.msh".to_owned()).await?; // Result<Mesh, duite::TaskError>
/// ```
///
/// A function that returns something called `Result`, such as `std::io::Result<T>`, gives a
/// `TaskHandle<T>` and fails with its error, which has to be a `std::error::Error`. Any other return
/// type is the value itself. Arguments are owned: the task outlives its caller.
///
/// The task has the function's name, which is what its failures are grouped by;
/// `#[duite::task(name = "mesh")]` gives it another.
#[proc_macro_attribute]
pub fn task(
    attribute: proc_macro::TokenStream,
    item: proc_macro::TokenStream,
) -> proc_macro::TokenStream {
    expand::expand(attribute.into(), item.into())
        .unwrap_or_else(|error| error.into_compile_error())
        .into()
}
