//! `embed_migrations!` does not notice a new migration folder by itself; this makes cargo look.

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
