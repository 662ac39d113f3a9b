//! Parts of the daemon by themselves: `cargo bench --bench micro`.

fn main() {
    divan::main();
}
