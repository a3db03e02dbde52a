//! The driver finds interceptors and strategies that settings name among the program's own dynamic symbols.

fn main() {
    println!("cargo:rustc-link-arg-bins=-rdynamic");
}
