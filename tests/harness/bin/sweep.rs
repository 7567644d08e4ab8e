//! Takes away what killed test programs left: servers, mounts, files. `tools/run-tests` ends with it.

fn main() {
    harness::scratch::sweep();
}
