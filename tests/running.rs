//! The program while it runs, to be sent signals.
#![cfg(unix)]

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStderr, Command, Stdio};

use crate::program::Workshop;

/// A run that goes on, and what it says.
pub struct Running {
    pub child: Child,
    lines: Lines<BufReader<ChildStderr>>,
}

impl Running {
    pub fn start(workshop: &Workshop, arguments: &[&str]) -> Self {
        Self::of(workshop.command("cpu").args(arguments))
    }

    pub fn of(command: &mut Command) -> Self {
        let mut child =
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        Self { child, lines }
    }

    /// Waits until so many lines with `text` came.
    pub fn wait_for(&mut self, text: &str, times: usize) {
        let matching =
            self.lines.by_ref().filter(|line| line.as_ref().expect("text").contains(text)).take(times);
        assert_eq!(matching.count(), times, "it ended before it said `{text}`");
    }

    /// Waits for a line with `text`, and gives it.
    pub fn line_with(&mut self, text: &str) -> String {
        let mut lines = self.lines.by_ref().map_while(Result::ok);
        lines.find(|line| line.contains(text)).unwrap_or_else(|| panic!("it ended before it said `{text}`"))
    }

    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// Its exit code, if it ends by itself, and the rest of what it says.
    pub fn ended(mut self) -> (Option<i32>, String) {
        let rest: Vec<String> = self.lines.by_ref().map_while(Result::ok).collect();
        (self.child.wait().expect("a child").code(), rest.join("\n"))
    }
}

impl Drop for Running {
    /// A run without an end must not outlive a test that fails.
    fn drop(&mut self) {
        // It may be over.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
