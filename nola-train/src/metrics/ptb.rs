//! Penn Treebank tokens, as the scorers of image captions cut them.
//!
//! Those scorers call the tokeniser of Stanford CoreNLP 3.4.1, a Java program. This one was written from its output:
//! the two agree on the texts of the E2E data set, and differ on what is rare there, such as markup and telephone
//! numbers. Where that program looks into the next caption to tell whether a dot ends a sentence, this one does not.

use std::sync::LazyLock;

use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::{Anchored, Input, MatchKind};

use super::{Corpus, Segment};

/// Tokens that a caption is scored without; brackets stay, since they are in lower case by then.
const PUNCTUATION: [&str; 13] = ["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"];

/// The texts of a corpus as Penn Treebank tokens in lower case, without punctuation.
pub(super) fn segments(corpus: &Corpus) -> Vec<Segment<String>> {
    let mut lexer = Lexer::new();
    corpus.segments(|text| {
        let mut tokens = lexer.tokens(text);
        tokens.retain(|token| !PUNCTUATION.contains(&token.as_str()));
        tokens
    })
}

/// What a matched piece of text becomes.
#[derive(Debug, Clone, Copy)]
enum Token {
    /// Nothing.
    Skipped,
    /// The piece as it stands.
    Whole,
    /// This token.
    Sign(&'static str),
    /// This token, for all but the last character of the piece, which is read again.
    Opening(&'static str),
    /// The piece without its last characters, which are read again.
    Without(usize),
    /// The piece up to its last dot, which is read again: it ends a sentence.
    BeforeDot,
    /// As `BeforeDot`, with a dot of its own: the dot ends an abbreviation too.
    SharedDot,
}

/// Names for parts of the patterns.
const PARTS: [(&str, &str); 6] = [
    ("<X>", r"[\p{L}\p{M}\p{Nd}]"),
    ("<WORD>", r"\p{L}[\p{L}\p{M}\p{Nd}]*(?:[.!?]\p{L}[\p{L}\p{M}\p{Nd}]*)*"),
    ("<AUX>", r"['’](?i:[msd]|re|ve|ll)"),
    // Abbreviations that a name follows.
    (
        "<TITLE>",
        "(?i:mr|mrs|ms|dr|st|mt|ft|prof|rev|gen|capt|col|lt|sgt|maj|adm|hon|sen|rep|gov|messrs|dept|ave|tel|\
         al|vs)",
    ),
    // Abbreviations that a sentence may end with.
    (
        "<SHORT>",
        "(?i:rd|blvd|sq|ct|bros|jr|sr|ltd|corp|co|inc|est|ph[.]d|m[.]d|jan|feb|mar|apr|jun|jul|aug|sept?|oct|\
         nov|dec|mon|tue|wed|thu|fri)",
    ),
    // Words that start a sentence, after an abbreviation too.
    (
        "<STARTER>",
        "(?:The|It|There|A|In|They|This|If|He|You|She|An|One|We|But|As|Once|At|Their|However|When|That|What|\
         So|Here|While|These|Then|Our|Now|Her|Some|After|Additionally|More|Yet|Since|Many|According|Other|\
         Such|Last)[[:space:]]",
    ),
];

/// Each kind of token. The longest match counts, and among equally long ones the first.
const RULES: &[(&str, Token)] = &[
    (r"[\s\u00a0]+", Token::Skipped),
    (r"[\x{10000}-\x{10ffff}]", Token::Skipped),
    // Contractions.
    ("(?i:cannot)", Token::Without(3)),
    ("(?i:gonna|wanna|gimme|lemme|gotta)", Token::Without(2)),
    (r"\p{L}*[a-mo-zA-MO-Z](?i:n['’]t)", Token::Without(3)),
    ("(?i:n['’]t)", Token::Whole),
    (r"<AUX>\z", Token::Whole),
    (r"<AUX>\P{L}", Token::Without(1)),
    ("(?i:['’]tis)", Token::Without(2)),
    ("(?i:['’]twas)", Token::Without(3)),
    // Words with an apostrophe, and without one.
    (r"(?i:[dol]['’]<X>+(?:-<X>+)*)", Token::Whole),
    (r"(?i:['’]n['’]|['’]em|['’]cause|['’]\p{Nd}{2}s|y['’]|ol['’])", Token::Whole),
    (r"(?i:n?e['’]er|(?:over)?ta['’]en|ma['’]am|hawai['’]i)", Token::Whole),
    ("<WORD>", Token::Whole),
    ("<X>+(?:_<X>+)*", Token::Whole),
    ("<X>[<X>.,]*(?:-<X>+)+", Token::Whole),
    ("(?:<X>+-)*<X>+/<X>+(?:[-/]<X>+)*", Token::Whole),
    (r"\p{L}+(?:&\p{L}+)+", Token::Whole),
    (r"(?i:c\+\+|[cf]#)", Token::Whole),
    // Numbers.
    (r"[-+]?(?:\p{Nd}+|\p{Nd}*(?:[.:,]\p{Nd}+)+)", Token::Whole),
    ("½", Token::Sign("1/2")),
    ("¼", Token::Sign("1/4")),
    ("¾", Token::Sign("3/4")),
    // Abbreviations.
    (r"<WORD>\.[,;:]", Token::Without(1)),
    (r"(?:<TITLE>|(?i:etc))\.", Token::Whole),
    (r"(?:<SHORT>|\p{L}(?:\.\p{L})*)\.", Token::Whole),
    (r"(?i:etc)\.\s+\p{Lu}", Token::SharedDot),
    (r"<SHORT>\.(?:\s+\p{Lu}|\s*\z)", Token::SharedDot),
    (r"\p{L}\.\s+<STARTER>", Token::BeforeDot),
    (r"\p{L}(?:\.\p{L})+\.\s+<STARTER>", Token::SharedDot),
    // Addresses.
    (r#"(?:https?://|www\.)[^\s"<>()]*[^\s"<>().,;:!?]"#, Token::Whole),
    (r"<X>[<X>_.+-]*@<X>+(?:[.-]<X>+)*", Token::Whole),
    (r"[#@]\p{L}[<X>_]*", Token::Whole),
    // Currencies, quotation marks and brackets have tokens of the Treebank.
    (r"(?:US|A|C|HK|NZ|S)\$", Token::Whole),
    ("£", Token::Sign("#")),
    ("€", Token::Sign("$")),
    ("¢", Token::Sign("cents")),
    (r#""|”|»|''"#, Token::Sign("''")),
    (r#""<X>"#, Token::Opening("``")),
    ("“|«|``", Token::Sign("``")),
    ("['’›]", Token::Sign("'")),
    (r"['’]\p{L}", Token::Opening("`")),
    ("[`‘‹]", Token::Sign("`")),
    (r"\(", Token::Sign("-lrb-")),
    (r"\)", Token::Sign("-rrb-")),
    (r"\[", Token::Sign("-lsb-")),
    (r"\]", Token::Sign("-rsb-")),
    (r"\{", Token::Sign("-lcb-")),
    (r"\}", Token::Sign("-rcb-")),
    // Other signs.
    (r"\.{3,5}|…", Token::Sign("...")),
    ("-{2,4}|–|—|―", Token::Sign("--")),
    (r"-{5,}|_+|\*+|#{2,}|[?!]+", Token::Whole),
    ("&amp;", Token::Sign("&")),
    ("&lt;", Token::Sign("<")),
    ("&gt;", Token::Sign(">")),
    ("(?s:.)", Token::Whole),
];

static RULES_DFA: LazyLock<DFA> = LazyLock::new(|| {
    let spelled_out = |(pattern, _): &(&str, Token)| {
        // `<X>` stands inside brackets too, where a class may contain another.
        PARTS.iter().fold((*pattern).to_owned(), |pattern, (name, part)| pattern.replace(name, part))
    };
    let patterns: Vec<String> = RULES.iter().map(spelled_out).collect();
    DFA::builder()
        .configure(DFA::config().match_kind(MatchKind::All))
        .build_many(&patterns)
        .expect("the rules are constants")
});

/// Cuts texts into tokens in lower case.
pub(super) struct Lexer(Cache);

impl Lexer {
    pub fn new() -> Self {
        Self(RULES_DFA.create_cache())
    }

    pub fn tokens(&mut self, text: &str) -> Vec<String> {
        let mut tokens = Vec::new();
        let mut start = 0;
        while start < text.len() {
            let (rule, piece) = self.longest(text, start);
            let (token, read) = read(rule, piece);
            if !token.is_empty() {
                tokens.push(token.to_lowercase().replace('’', "'"));
            }
            start += read;
        }
        tokens
    }

    fn longest<'t>(&mut self, text: &'t str, start: usize) -> (Token, &'t str) {
        let input = Input::new(text).range(start..).anchored(Anchored::Yes);
        let end = RULES_DFA.try_search_fwd(&mut self.0, &input).expect("no rule gives up on a byte");
        let end = end.expect("the last rule matches every character");
        (RULES[end.pattern().as_usize()].1, &text[start..end.offset()])
    }
}

/// The token of a piece, and how many bytes of the piece are done with.
fn read(rule: Token, piece: &str) -> (&str, usize) {
    let all_but = |count: usize| piece.char_indices().rev().take(count).last().map_or(0, |(start, _)| start);
    let last_dot = || piece.rfind('.').expect("the rule asks for a dot");
    match rule {
        Token::Skipped => ("", piece.len()),
        Token::Whole => (piece, piece.len()),
        Token::Sign(token) => (token, piece.len()),
        Token::Opening(token) => (token, all_but(1)),
        Token::Without(count) => (&piece[..all_but(count)], all_but(count)),
        Token::BeforeDot => (&piece[..last_dot()], last_dot()),
        Token::SharedDot => (&piece[..=last_dot()], last_dot()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tokens(text: &str) -> String {
        Lexer::new().tokens(text).join(" ")
    }

    #[test]
    fn words_of_the_e2e_data_are_cut_as_by_the_java_program() {
        let cut = [
            (
                "Café Adriatic has 5 stars.  Prices start at £10.50.",
                "café adriatic has 5 stars . prices start at # 10.50 .",
            ),
            (
                "It isn't the Twenty Two's; we can't, it'll",
                "it is n't the twenty two 's ; we ca n't , it 'll",
            ),
            ("non-family-friendly, £20-25 (5-star)", "non-family-friendly , # 20-25 -lrb- 5-star -rrb-"),
            (
                "called 'Browns Cambridge', or \"The Punter\"",
                "called ` browns cambridge ' , or `` the punter ''",
            ),
            ("is low., located", "is low. , located"),
            ("near St. John's College", "near st. john 's college"),
            ("hors d'oeuvres etc. and riverside... or", "hors d'oeuvres etc. and riverside ... or"),
            ("kid-friendly.The place.It 5.The", "kid-friendly . the place.it 5 . the"),
            ("near Chesterton Rd. You cannot", "near chesterton rd. . you can not"),
        ];
        for (text, expected) in cut {
            assert_eq!(tokens(text), expected);
        }
    }

    #[test]
    fn abbreviations_initials_and_addresses_keep_their_dots() {
        let cut = "mr. x. of the u.s. , e.g. , x@y.z and https://foo.bar/baz";
        assert_eq!(tokens("Mr. X. of the U.S., e.g., x@y.z and https://foo.bar/baz"), cut);
    }

    #[test]
    fn quotation_marks_of_print_are_those_of_the_keyboard() {
        assert_eq!(tokens("“It’s a ‘pub’”"), "`` it 's a ` pub ' ''");
    }

    #[test]
    fn a_caption_is_scored_without_punctuation() {
        let (hypotheses, references) = (["A pub, near - the \"river\"!".to_owned()], [vec![String::new()]]);
        let segments = segments(&Corpus::new(&hypotheses, &references).unwrap());
        assert_eq!(segments[0].hypothesis, ["a", "pub", "near", "the", "river"]);
    }

    proptest! {
        #[test]
        fn any_text_can_be_cut(text in ".*") {
            Lexer::new().tokens(&text);
        }

        #[test]
        fn plain_words_are_the_tokens(words in prop::collection::vec("[b-df-z]{3,8}", 0..8)) {
            let contracted = |word: &String| ["gonna", "wanna", "gotta", "gimme"].contains(&word.as_str());
            prop_assume!(!words.iter().any(contracted));
            prop_assert_eq!(Lexer::new().tokens(&words.join(" ")), words);
        }
    }
}
