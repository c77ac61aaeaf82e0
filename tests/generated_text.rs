//! The shipped text is what the program beside it writes.

use std::path::Path;

#[path = "../assets/text/generate.rs"]
mod generate;

#[test]
fn the_shipped_text_is_what_its_program_writes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/text");
    // The text of the pretraining is too large to be shipped.
    let shipped = generate::PARTS.iter().filter(|part| part.name != "world-train.txt");
    for part in shipped {
        let text = std::fs::read_to_string(folder.join(part.name));
        let text = text.unwrap_or_else(|error| panic!("assets/text/{}: {error}", part.name));
        assert!(text == generate::lines(part), "assets/text/{} is not what generate.rs writes", part.name);
    }
}
