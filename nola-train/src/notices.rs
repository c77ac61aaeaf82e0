//! How notices of a session show on stderr.

use std::collections::BTreeSet;
use std::sync::Mutex;

use crate::session::Notice;
use crate::terminal::err_line;

/// Prints each notice; one that is true of a model however often it is opened, only once.
pub fn print(notices: &[Notice]) {
    static PRINTED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    for notice in notices {
        let text = notice.to_string();
        let is_new = match notice {
            Notice::Tokenizer(_) | Notice::Untied | Notice::VisionTower { .. } => {
                let mut printed = PRINTED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                printed.insert(text.clone())
            }
            Notice::OldAdapter { .. }
            | Notice::UnnamedClasses { .. }
            | Notice::DenseBase { .. }
            | Notice::OtherTemplate { .. } => true,
        };
        if is_new {
            err_line(&text);
        }
    }
}
