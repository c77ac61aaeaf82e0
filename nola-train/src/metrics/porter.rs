//! The stem of an English word.
//!
//! # Source
//! Porter, "An algorithm for suffix stripping", 1980, with the changes of `nltk.stem.PorterStemmer`: a short list of
//! irregular words, `ie` kept in short words, `y` turned into `i` only after a consonant, and three more suffixes.

/// A suffix and what takes its place.
type Rule = (&'static str, &'static str);

const IRREGULAR: [Rule; 16] = [
    ("sky", "sky"),
    ("skies", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("inning", "inning"),
    ("outings", "outing"),
    ("outing", "outing"),
    ("cannings", "canning"),
    ("canning", "canning"),
    ("howe", "howe"),
    ("proceed", "proceed"),
    ("exceed", "exceed"),
    ("succeed", "succeed"),
];

const PLURALS: [Rule; 4] = [("sses", "ss"), ("ies", "i"), ("ss", "ss"), ("s", "")];

/// Applied where a vowel-consonant pair is left before the suffix.
const DOUBLE_SUFFIXES: [Rule; 21] = [
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("fulli", "ful"),
];

/// As [`DOUBLE_SUFFIXES`].
const ADJECTIVES: [Rule; 7] = [
    ("icate", "ic"),
    ("ative", ""),
    ("alize", "al"),
    ("iciti", "ic"),
    ("ical", "ic"),
    ("ful", ""),
    ("ness", ""),
];

/// Taken off where two vowel-consonant pairs are left; `ion` only after `s` or `t`.
const LAST_SUFFIXES: [&str; 19] = [
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism",
    "ate", "iti", "ous", "ive", "ize",
];

/// The stem of `word`, which is in lower case.
pub(super) fn stem(word: &str) -> String {
    let irregular = IRREGULAR.iter().find(|(form, _)| *form == word);
    if let Some((_, stem)) = irregular {
        return (*stem).to_owned();
    }
    if word.chars().count() <= 2 {
        return word.to_owned();
    }
    let steps = [plural, past, final_y, double_suffix, adjective, last_suffix, final_e, final_ll];
    steps.iter().fold(word.to_owned(), |word, step| step(word))
}

fn plural(word: String) -> String {
    if word.ends_with("ies") && word.chars().count() == 4 {
        return cut(&word, "s");
    }
    replace_first(word, &PLURALS, |_| true)
}

fn past(word: String) -> String {
    if word.ends_with("ied") {
        return cut(&word, if word.chars().count() == 4 { "d" } else { "ed" });
    }
    if let Some(stem) = word.strip_suffix("eed") {
        return if measure(stem) > 0 { cut(&word, "d") } else { word };
    }
    let suffix = ["ed", "ing"].into_iter().find(|suffix| word.strip_suffix(suffix).is_some_and(has_vowel));
    match suffix {
        Some(suffix) => restore(cut(&word, suffix)),
        None => word,
    }
}

/// Mends a stem that has lost `ed` or `ing`: `conflat` to `conflate`, `hopp` to `hop`, `fil` to `file`.
fn restore(stem: String) -> String {
    if ["at", "bl", "iz"].iter().any(|end| stem.ends_with(end)) {
        return stem + "e";
    }
    if ends_double_consonant(&stem) {
        let keeps = ["l", "s", "z"].iter().any(|end| stem.ends_with(end));
        return if keeps { stem } else { without_last(&stem).to_owned() };
    }
    if measure(&stem) == 1 && ends_short(&stem) { stem + "e" } else { stem }
}

fn final_y(word: String) -> String {
    match word.strip_suffix('y') {
        Some(stem) if stem.chars().count() > 1 && consonants(stem).last() == Some(&true) => {
            format!("{stem}i")
        }
        Some(_) | None => word,
    }
}

fn double_suffix(word: String) -> String {
    if let Some(stem) = word.strip_suffix("alli")
        && measure(stem) > 0
    {
        return double_suffix(format!("{stem}al"));
    }
    if DOUBLE_SUFFIXES.iter().any(|(suffix, _)| word.ends_with(suffix)) {
        return replace_first(word, &DOUBLE_SUFFIXES, |stem| measure(stem) > 0);
    }
    // The `l` stays with the stem, so that `geologi` is long enough.
    match word.strip_suffix("ogi") {
        Some(stem) if stem.ends_with('l') && measure(stem) > 0 => cut(&word, "i"),
        Some(_) | None => word,
    }
}

fn adjective(word: String) -> String {
    replace_first(word, &ADJECTIVES, |stem| measure(stem) > 0)
}

fn last_suffix(word: String) -> String {
    let Some(suffix) = LAST_SUFFIXES.iter().find(|suffix| word.ends_with(*suffix)) else {
        return word;
    };
    let stem = cut(&word, suffix);
    let fits = *suffix != "ion" || stem.ends_with(['s', 't']);
    if fits && measure(&stem) > 1 { stem } else { word }
}

fn final_e(word: String) -> String {
    match word.strip_suffix('e') {
        Some(stem) if measure(stem) > 1 || (measure(stem) == 1 && !ends_short(stem)) => stem.to_owned(),
        Some(_) | None => word,
    }
}

fn final_ll(word: String) -> String {
    let shortened = without_last(&word);
    if word.ends_with("ll") && measure(shortened) > 1 { shortened.to_owned() } else { word }
}

/// Replaces the first suffix that `word` has, if what is left before it is `long_enough`; a later one is not tried.
fn replace_first(word: String, rules: &[Rule], long_enough: fn(&str) -> bool) -> String {
    let found = rules.iter().find_map(|(suffix, with)| Some((word.strip_suffix(suffix)?, with)));
    match found {
        Some((stem, with)) if long_enough(stem) => format!("{stem}{with}"),
        Some(_) | None => word,
    }
}

fn cut(word: &str, suffix: &str) -> String {
    word[..word.len() - suffix.len()].to_owned()
}

fn without_last(word: &str) -> &str {
    let mut characters = word.chars();
    characters.next_back();
    characters.as_str()
}

/// For each letter whether it is a consonant: none of `aeiou`, and `y` only where no consonant stands before it.
fn consonants(word: &str) -> Vec<bool> {
    let mut consonants = Vec::with_capacity(word.len());
    for letter in word.chars() {
        let consonant = match letter {
            'a' | 'e' | 'i' | 'o' | 'u' => false,
            'y' => !consonants.last().copied().unwrap_or(false),
            _ => true,
        };
        consonants.push(consonant);
    }
    consonants
}

/// Vowels that a consonant follows, runs of either counted as one: Porter's `m`.
fn measure(stem: &str) -> usize {
    consonants(stem).windows(2).filter(|pair| matches!(pair, [false, true])).count()
}

fn has_vowel(stem: &str) -> bool {
    consonants(stem).contains(&false)
}

fn ends_double_consonant(word: &str) -> bool {
    let mut letters = word.chars().rev();
    let last = letters.next();
    last.is_some() && last == letters.next() && consonants(word).last() == Some(&true)
}

/// Consonant, vowel, consonant at the end, the last none of `wxy`; or a whole word of vowel and consonant.
fn ends_short(word: &str) -> bool {
    match consonants(word)[..] {
        [false, true] => true,
        [.., true, false, true] => !word.ends_with(['w', 'x', 'y']),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_paper_have_the_stems_of_nltk() {
        let stems = [
            ("caresses", "caress"),
            ("ponies", "poni"),
            ("ties", "tie"),
            ("died", "die"),
            ("agreed", "agre"),
            ("feed", "feed"),
            ("motoring", "motor"),
            ("sing", "sing"),
            ("hopping", "hop"),
            ("falling", "fall"),
            ("filing", "file"),
            ("happy", "happi"),
            ("enjoy", "enjoy"),
            ("relational", "relat"),
            ("radically", "radic"),
            ("geology", "geolog"),
            ("electrical", "electr"),
            ("adoption", "adopt"),
            ("probate", "probat"),
            ("rate", "rate"),
            ("controlling", "control"),
            ("skies", "sky"),
            ("succeed", "succeed"),
        ];
        for (word, expected) in stems {
            assert_eq!(stem(word), expected, "the stem of {word}");
        }
    }

    #[test]
    fn letters_beyond_ascii_are_consonants() {
        assert_eq!(stem("cafés"), "café");
        assert_eq!(stem("öed"), "öed");
    }
}
