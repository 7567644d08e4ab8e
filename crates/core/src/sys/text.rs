//! Small files of text in a directory.

use std::io::{self, Read, Write};

use crate::sys::Dir;

impl Dir {
    /// Reads a small file, and no more than so many bytes of it. No link is followed.
    ///
    /// # Errors
    /// What `openat` and `read` report; `InvalidData` for what is not UTF-8.
    pub fn read_text(&self, name: &str, most: u64) -> io::Result<String> {
        let mut text = String::new();
        self.open_file(name)?.take(most).read_to_string(&mut text)?;
        Ok(text)
    }

    /// Writes a small file of mode 0600 in one step, over what has the name. What is left under the temporary name,
    /// which no other process uses, by one that was killed goes first.
    ///
    /// # Errors
    /// What the calls report; nothing is left under the temporary name then, if it can be removed.
    pub fn replace_text(&self, temporary: &str, name: &str, text: &str) -> io::Result<()> {
        let _ = self.unlink(temporary);
        self.create_named(temporary)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| self.replace(temporary, name))
            .inspect_err(|_| drop(self.unlink(temporary)))
    }
}
