//! The commands and settings of the documentation, used word for word: a block that a test uses stands
//! in docs/ below a comment `<!-- test: NAME -->`.

#![allow(dead_code)]

use std::fs;
use std::path::Path;

use harness::Cluster;
use harness::command::{Output, run_within};
use harness::wait::TIMEOUT;

/// A file of docs/, with the test's own paths in the place of those in the text.
pub struct Document {
    file: &'static str,
    text: String,
    places: Vec<(String, String)>,
}

impl Document {
    pub fn new(file: &'static str) -> Self {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let text = fs::read_to_string(docs.join(file)).expect(file);
        Self { file, text, places: Vec::new() }
    }

    /// What stands here for something in the text: a path, a name, a process id.
    pub fn with(mut self, written: &str, here: impl AsRef<Path>) -> Self {
        let here = here.as_ref().to_str().expect("text").to_owned();
        self.places.push((written.to_owned(), here));
        self
    }

    /// The block below the comment, with what stands here.
    #[track_caller]
    pub fn block(&self, name: &str) -> String {
        let comment = format!("<!-- test: {name} -->\n");
        let Some((_, after)) = self.text.split_once(&comment) else {
            panic!("docs/{} has no block {name}", self.file);
        };
        let (fence, rest) = after.split_once('\n').expect("a block");
        assert!(fence.starts_with("```"), "docs/{}, {name}: no block follows", self.file);
        let (block, _) = rest.split_once("\n```").expect("the block's end");
        self.places
            .iter()
            .fold(block.to_owned(), |text, (written, here)| text.replace(written, here))
    }

    /// Runs the block's commands, which have to succeed, and returns what they print.
    #[track_caller]
    pub fn run(&self, cluster: &Cluster, name: &str) -> String {
        let output = self.try_run(cluster, name);
        assert!(output.success(), "{}\n{output:?}", self.block(name));
        output.stdout
    }

    /// Runs the block's commands.
    #[track_caller]
    pub fn try_run(&self, cluster: &Cluster, name: &str) -> Output {
        run_within(&mut cluster.shell(&self.block(name)), "", TIMEOUT)
    }

    /// The block's lines, `name = 'value'`.
    #[track_caller]
    pub fn settings(&self, name: &str) -> Vec<(String, String)> {
        let block = self.block(name);
        let setting = |line: &str| {
            let (name, value) = line.split_once(" = ").unwrap_or_else(|| panic!("{line}"));
            let value = value.trim_matches('\'').replace("''", "'");
            (name.to_owned(), value)
        };
        block
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(setting)
            .collect()
    }
}
