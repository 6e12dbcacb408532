//! Replays what fuzzing has found: every input in `fuzz/corpus`.

use std::fs;
use std::path::Path;

#[path = "../../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "it is a library of its own elsewhere")]
mod fuzz;

#[test]
fn every_corpus_is_replayed() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for (name, check) in fuzz::ALL {
        let inputs: Vec<_> = fs::read_dir(corpora.join(name)).unwrap().collect();
        assert!(!inputs.is_empty(), "{name}");
        for input in inputs {
            let path = input.unwrap().path();
            let replayed = std::panic::catch_unwind(|| check(&fs::read(&path).unwrap()));
            assert!(replayed.is_ok(), "{}", path.display());
        }
    }
}
