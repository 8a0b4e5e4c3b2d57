//! Only says what else the build depends on: the migrations are read by a macro.

fn main() {
    println!("cargo:rerun-if-changed=src/store/sqlite/migrations");
}
