//! From an `async fn` to a function that schedules its body.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::{
    Error, FnArg, Ident, ItemFn, LitStr, Pat, Result, ReturnType, Token, Type,
    parse::{Parse, ParseStream},
    punctuated::Punctuated,
    spanned::Spanned,
};

/// What stands in the attribute's parentheses.
struct Options {
    name: Option<LitStr>,
}

impl Parse for Options {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut name = None;
        for option in Punctuated::<(Ident, LitStr), Token![,]>::parse_terminated_with(input, pair)?
        {
            let (key, value) = option;
            if key != "name" {
                let message =
                    format!("`{key}` is no option of #[duite::task]; there is `name = \"…\"`");
                return Err(Error::new(key.span(), message));
            }
            if value.value().trim().is_empty() {
                return Err(Error::new(value.span(), "a task's name must not be empty"));
            }
            if name.replace(value).is_some() {
                return Err(Error::new(key.span(), "`name` is given twice"));
            }
        }
        Ok(Self { name })
    }
}

fn pair(input: ParseStream<'_>) -> Result<(Ident, LitStr)> {
    let key = input.parse()?;
    input.parse::<Token![=]>()?;
    Ok((key, input.parse()?))
}

/// What the attribute makes of the item.
pub(crate) fn expand(attribute: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let options: Options = syn::parse2(attribute)?;
    let function: ItemFn = syn::parse2(item).map_err(|error| {
        let message = format!("#[duite::task] goes on an `async fn` with a body: {error}");
        Error::new(error.span(), message)
    })?;
    check(&function)?;

    let ItemFn {
        attrs,
        vis,
        mut sig,
        block,
        ..
    } = function;
    sig.asyncness = None;
    let ident = &sig.ident;
    let text = ident.to_string();
    let text = text.trim_start_matches("r#").to_owned();
    let name = options
        .name
        .unwrap_or_else(|| LitStr::new(&text, ident.span()));

    // Every argument moves into the future, also one that the body does not use, and is dropped
    // with it, as in any `async fn`.
    let mut bindings = Vec::new();
    for (number, argument) in sig.inputs.iter_mut().enumerate() {
        let FnArg::Typed(argument) = argument else {
            continue;
        };
        let pattern = (*argument.pat).clone();
        let passed = match &pattern {
            Pat::Ident(simple) if simple.subpat.is_none() => simple.ident.clone(),
            _ => format_ident!("__argument_{}", number, span = Span::mixed_site()),
        };
        bindings.push(quote! { let #pattern = #passed; });
        *argument.pat = syn::parse_quote!(#passed);
    }

    let (value, run, hint) = match &sig.output {
        ReturnType::Default => (quote! { () }, quote! { run_plain }, quote! {}),
        ReturnType::Type(_, returned) => {
            let span = returned.span();
            // Never runs: it tells the compiler what `?` and `return` are to make, and puts its
            // complaints where the type is written.
            let hint = quote_spanned! {span=>
                #[allow(unreachable_code, clippy::diverging_sub_expression, clippy::empty_loop,
                    clippy::let_unit_value, clippy::let_with_type_underscore, clippy::needless_return)]
                if false {
                    let __returned: #returned = loop {};
                    return __returned;
                }
            };
            if is_result(returned) {
                let value = quote_spanned! {span=>
                    <#returned as ::duite::__private::Outcome>::Value
                };
                (value, quote! { run }, hint)
            } else {
                (quote! { #returned }, quote! { run_plain }, hint)
            }
        }
    };
    sig.output = syn::parse_quote! { -> ::duite::TaskHandle<#value> };
    let statements = &block.stmts;
    Ok(quote! {
        #(#attrs)*
        #[track_caller]
        #vis #sig {
            ::duite::__private::#run(#name, #text, async move {
                #hint
                #(#bindings)*
                #(#statements)*
            })
        }
    })
}

/// Refuses what cannot be scheduled, with the place and a way out.
fn check(function: &ItemFn) -> Result<()> {
    let sig = &function.sig;
    let refuse = |span: Span, message: &str| Err(Error::new(span, message));
    if sig.asyncness.is_none() {
        let message = "#[duite::task] needs an `async fn`: a task is a future";
        return refuse(sig.fn_token.span(), message);
    }
    if let Some(keyword) = &sig.constness {
        return refuse(keyword.span(), "a task cannot be a `const fn`");
    }
    if !matches!(sig.safety, syn::Safety::Default) {
        let message = "a task cannot be an `unsafe fn`: it runs after its caller is gone";
        return refuse(sig.ident.span(), message);
    }
    for argument in &sig.inputs {
        match argument {
            FnArg::Receiver(receiver) => {
                let message = "#[duite::task] does not go on methods: make it a function that \
                               takes what it needs, such as an `Arc<Self>`, as an argument";
                return refuse(receiver.span(), message);
            }
            FnArg::Typed(argument) => borrows(&argument.ty)?,
        }
    }
    if let ReturnType::Type(_, returned) = &sig.output
        && let Type::ImplTrait(implied) = &**returned
    {
        return refuse(implied.span(), "a task's return type has to be named");
    }
    Ok(())
}

fn borrows(argument: &Type) -> Result<()> {
    if let Type::Reference(reference) = argument {
        let is_static = reference
            .lifetime
            .as_ref()
            .is_some_and(|lifetime| lifetime.ident == "static");
        if !is_static {
            let message = "a task outlives its caller and cannot borrow from it: take an owned \
                           value, such as `String` in place of `&str`";
            return Err(Error::new(reference.span(), message));
        }
    }
    Ok(())
}

fn is_result(returned: &Type) -> bool {
    match returned {
        // As a macro of the program's hands a type on.
        Type::Group(group) => is_result(&group.elem),
        Type::Paren(paren) => is_result(&paren.elem),
        Type::Path(path) => {
            let last = path.path.segments.last();
            last.is_some_and(|last| last.ident == "Result")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(attribute: TokenStream, item: TokenStream) -> String {
        expand(attribute, item)
            .unwrap()
            .to_string()
            .replace(' ', "")
    }

    fn refused(attribute: TokenStream, item: TokenStream) -> String {
        expand(attribute, item).unwrap_err().to_string()
    }

    #[test]
    fn what_surrounds_the_function_is_kept() {
        let text = expanded(
            quote! {},
            quote! {
                /// Reads.
                #[cfg(unix)]
                pub(crate) async fn read<T: Send + 'static>(mut path: String, (a, b): (u8, T)) -> u32
                where
                    T: Clone,
                { 7 }
            },
        );
        for part in [
            "Reads.",
            "#[cfg(unix)]",
            "pub(crate)fnread<T:Send+'static>(path:String,__argument_1:(u8,T))->::duite::TaskHandle<u32>whereT:Clone",
            "letmutpath=path;",
            "let(a,b)=__argument_1;",
            "run_plain(\"read\",\"read\",asyncmove{",
        ] {
            let part = part.replace(' ', "");
            assert!(text.contains(&part), "{part} in {text}");
        }
    }

    #[test]
    fn a_result_by_any_path_is_one_and_another_type_is_not() {
        for returned in [quote!(Result<u8, E>), quote!(std::io::Result<u8>)] {
            let text = expanded(quote! {}, quote! { async fn f() -> #returned { g()? } });
            assert!(text.contains("::duite::__private::run("), "{text}");
        }
        let text = expanded(quote! {}, quote! { async fn f() {} });
        assert!(text.contains("->::duite::TaskHandle<()>"), "{text}");
    }

    #[test]
    fn a_name_takes_the_place_of_the_functions() {
        let text = expanded(quote! { name = "mesh" }, quote! { async fn f() {} });
        assert!(text.contains("run_plain(\"mesh\",\"f\""), "{text}");
    }

    #[test]
    fn what_cannot_be_a_task_is_refused_with_a_way_out() {
        let none = quote! {};
        for (attribute, item, expected) in [
            (none.clone(), quote! { fn f() {} }, "needs an `async fn`"),
            (
                none.clone(),
                quote! { async fn f(&self) {} },
                "does not go on methods",
            ),
            (
                none.clone(),
                quote! { async fn f(self: Arc<Self>) {} },
                "does not go on methods",
            ),
            (
                none.clone(),
                quote! { async fn f(a: &str) {} },
                "cannot borrow",
            ),
            (
                none.clone(),
                quote! { async fn f() -> impl Send { 1 } },
                "has to be named",
            ),
            (none.clone(), quote! { async unsafe fn f() {} }, "unsafe"),
            (none.clone(), quote! { struct F; }, "goes on an `async fn`"),
            (
                quote! { nmae = "a" },
                quote! { async fn f() {} },
                "`nmae` is no option",
            ),
            (
                quote! { name = "" },
                quote! { async fn f() {} },
                "must not be empty",
            ),
            (
                quote! { name = "a", name = "b" },
                quote! { async fn f() {} },
                "given twice",
            ),
        ] {
            let message = refused(attribute, item);
            assert!(message.contains(expected), "{message}");
        }
        assert!(expand(none, quote! { async fn f(a: &'static str) {} }).is_ok());
    }
}
