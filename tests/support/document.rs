//! The commands, settings and outputs of the documentation, used word for word: a block that a test uses
//! stands in docs/ or README.md below a comment `<!-- test: NAME -->`.

use std::fs;
use std::path::Path;
use std::process::Command;

use harness::Cluster;
use harness::command::{Output, run_within};
use harness::wait::TIMEOUT;

/// A block of a page between two fences.
pub struct Block {
    /// The line of its first fence.
    pub line: usize,
    /// What a comment `<!-- MARK -->` above it says.
    pub mark: Option<String>,
    pub text: String,
}

/// All fenced blocks of a page.
pub fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = page.lines().enumerate();
    let mut above = "";
    while let Some((number, line)) = lines.next() {
        if line.starts_with("```") {
            let inside = lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```");
            let text = inside.collect::<Vec<_>>().join("\n");
            let mark = above.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->"));
            blocks.push(Block { line: number + 1, mark: mark.map(str::to_owned), text });
        }
        above = line;
    }
    blocks
}

/// A text with all numbers, hexadecimal names and widths of columns taken out, and the nouns behind numbers in the
/// singular.
fn shape(text: &str) -> String {
    let number = |word: &str| {
        let digits = word.chars().filter(char::is_ascii_digit).count();
        digits > 0 && word.chars().all(|c| c.is_ascii_hexdigit() || ".:/+-TZ".contains(c))
    };
    let parts = text.split([' ', '\n', '|', '"', ',', '(', ')']).filter(|part| !part.is_empty());
    let line = |part: &str| part.chars().all(|c| "-+[]".contains(c));
    let word = |part| if number(part) || line(part) { "#" } else { part };
    // Without its number, one segment is as good as two.
    let mut behind_number = false;
    let words = parts.map(word).map(|word| {
        let singular = word.strip_suffix('s').filter(|_| behind_number);
        behind_number = word == "#";
        singular.unwrap_or(word)
    });
    words.collect::<Vec<_>>().join(" ")
}

/// A file of docs/, with the test's own paths in place of those in the text.
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

    /// What replaces something in the text here: a path, a name, a process id.
    pub fn with(mut self, written: &str, here: impl AsRef<Path>) -> Self {
        let here = here.as_ref().to_str().expect("text").to_owned();
        self.places.push((written.to_owned(), here));
        self
    }

    /// The block below the comment, with these replacements.
    #[track_caller]
    pub fn block(&self, name: &str) -> String {
        let mark = format!("test: {name}");
        let blocks = blocks(&self.text);
        let Some(block) = blocks.iter().find(|block| block.mark.as_ref() == Some(&mark)) else {
            panic!("docs/{} has no block {name}", self.file);
        };
        self.places
            .iter()
            .fold(block.text.clone(), |text, (written, here)| text.replace(written, here))
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

    /// Runs the block's commands as the user that runs the tests, which must be root.
    #[track_caller]
    pub fn run_as_root(&self, cluster: &Cluster, name: &str) -> String {
        let mut command = Command::new("bash");
        command.args(["-e", "-c", &self.block(name)]).env("PATH", cluster.server().path());
        let output = run_within(&mut command, "", TIMEOUT);
        assert!(output.success(), "{}\n{output:?}", self.block(name));
        output.stdout
    }

    /// Runs the block in psql, as it stands there, and returns what that prints.
    #[track_caller]
    pub fn psql(&self, cluster: &Cluster, name: &str) -> String {
        let mut psql = cluster.client("psql");
        psql.args(["-X", "-v", "ON_ERROR_STOP=1"]).env("TZ", "UTC");
        let output = run_within(&mut psql, &self.block(name), TIMEOUT);
        assert!(output.success(), "{}\n{output:?}", self.block(name));
        output.stdout
    }

    /// Checks that the block shows that output, but for numbers.
    #[track_caller]
    pub fn shows(&self, name: &str, output: &str) {
        let (shown, real) = (shape(&self.block(name)), shape(output));
        assert!(
            real.contains(&shown),
            "docs/{}, {name}:\n{shown}\nreally:\n{real}\n{output}",
            self.file
        );
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
