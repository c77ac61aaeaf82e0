//! Writes the text of this folder: small worlds of facts and sentences that say them, `context||completion` a line.
//!
//! `rustc -O generate.rs -o generate && ./generate FOLDER`. The result depends on nothing but this file.

use std::fs;
use std::path::Path;

/// One file to be written.
pub struct Part {
    /// Its name.
    pub name: &'static str,
    worlds: &'static [World],
    contexts: usize,
    /// Sentences for each context.
    ways: usize,
    seed: u64,
}

type World = fn(&mut Dice) -> (String, String);

/// The worlds that the shipped model has read about, and the one that it has not.
const READ: &[World] = &[weather, train, order, naming, lost, game, naming];
const NEW: &[World] = &[museum];

/// Every file of the folder.
pub const PARTS: [Part; 4] = [
    Part { name: "world-train.txt", worlds: READ, contexts: 28_000, ways: 1, seed: 1 },
    Part { name: "world-val.txt", worlds: READ, contexts: 420, ways: 1, seed: 2 },
    Part { name: "museum-train.txt", worlds: NEW, contexts: 400, ways: 1, seed: 3 },
    Part { name: "museum-val.txt", worlds: NEW, contexts: 80, ways: 4, seed: 4 },
];

/// The lines of a file.
pub fn lines(part: &Part) -> String {
    let mut text = String::new();
    for number in 0..part.contexts {
        let world = part.worlds[number % part.worlds.len()];
        for way in 0..part.ways {
            let mut dice = Dice::new(part.seed, number as u64);
            dice.phrasing = way as u64;
            let (context, completion) = world(&mut dice);
            text.push_str(&format!("{context}||{completion}\n"));
        }
    }
    text
}

/// Two streams of numbers: facts depend on seed and line alone, phrasing also on the way of saying them.
struct Dice {
    facts: u64,
    phrasing: u64,
    said: u64,
}

impl Dice {
    fn new(seed: u64, line: u64) -> Self {
        let facts = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ line.wrapping_mul(0xD1B5_4A32_D192_ED03);
        Self { facts, phrasing: 0, said: 0 }
    }

    /// A fact.
    fn pick(&mut self, choices: &[&'static str]) -> &'static str {
        choices[self.number(choices.len() as u64) as usize]
    }

    /// A fact from `0..below`.
    fn number(&mut self, below: u64) -> u64 {
        self.facts = self.facts.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mixed(self.facts) % below
    }

    /// A way to say it.
    fn say(&mut self, choices: &[String]) -> String {
        self.said += 1;
        let place = mixed(mixed(self.facts) ^ self.phrasing.wrapping_mul(0xA24B_AED4_963E_E407) ^ self.said);
        choices[(place % choices.len() as u64) as usize].clone()
    }
}

/// The finaliser of SplitMix64.
fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

const TOWNS: &[&str] = &[
    "Aldmoor",
    "Birkhaven",
    "Castle Row",
    "Dunford",
    "Elmsea",
    "Farrow",
    "Greyport",
    "Hollin",
    "Inverby",
    "Kelton",
    "Lower Marsh",
    "Millbrook",
    "Norwick",
    "Oakridge",
    "Penfold",
    "Quarry Hill",
    "Ravensby",
    "Stonegate",
    "Thornley",
    "Upper Vale",
];
const DAYS: &[&str] = &["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const COLOURS: &[&str] =
    &["black", "blue", "brown", "golden", "green", "grey", "red", "silver", "white", "yellow"];
const MATERIALS: &[&str] =
    &["clay", "cotton", "glass", "iron", "leather", "paper", "silk", "stone", "wood", "wool"];
const PEOPLE: &[&str] = &[
    "Ada", "Boris", "Clara", "David", "Elena", "Felix", "Greta", "Hugo", "Ines", "Jonas", "Karin", "Leo",
    "Mira", "Nils", "Olga", "Peter",
];

fn weather(dice: &mut Dice) -> (String, String) {
    let (town, day) = (dice.pick(TOWNS), dice.pick(DAYS));
    let sky = dice.pick(&["cloudy", "foggy", "rainy", "snowy", "stormy", "sunny"]);
    let wind = dice.pick(&["light", "no", "strong"]);
    let degrees = dice.number(30);
    let context =
        format!("weather | place : {town} | day : {day} | sky : {sky} | wind : {wind} | degrees : {degrees}");
    let first = dice.say(&[
        format!("On {day} it will be {sky} in {town}"),
        format!("{town} can expect a {sky} {day}"),
        format!("It will be a {sky} {day} in {town}"),
    ]);
    let second = dice.say(&[
        format!(" with {wind} wind and {degrees} degrees."),
        format!(". There will be {wind} wind, and the temperature will reach {degrees} degrees."),
        format!(", {degrees} degrees and {wind} wind."),
    ]);
    (context, first + &second)
}

fn train(dice: &mut Dice) -> (String, String) {
    let from = dice.pick(TOWNS);
    let to = dice.pick(TOWNS);
    let (hour, minute) = (5 + dice.number(18), 5 * dice.number(12));
    let (time, platform, late) = (format!("{hour}:{minute:02}"), 1 + dice.number(9), 5 * dice.number(4));
    let delay = if late == 0 { "none".to_owned() } else { format!("{late} minutes") };
    let context = format!(
        "train | from : {from} | to : {to} | leaves : {time} | platform : {platform} | delay : {delay}"
    );
    let first = dice.say(&[
        format!("The train from {from} to {to} leaves at {time} from platform {platform}"),
        format!("At {time} the train to {to} leaves {from} from platform {platform}"),
        format!("Platform {platform} is where the {time} train from {from} to {to} leaves"),
    ]);
    let second = if late == 0 {
        dice.say(&[". It is on time.".to_owned(), ", and it is on time.".to_owned()])
    } else {
        dice.say(&[format!(". It is {late} minutes late."), format!(", but it will be {late} minutes late.")])
    };
    (context, first + &second)
}

fn order(dice: &mut Dice) -> (String, String) {
    let (who, count) = (dice.pick(PEOPLE), 2 + dice.number(7));
    let dish = dice.pick(&[
        "apple pies",
        "bowls of soup",
        "cheese rolls",
        "fish cakes",
        "pancakes",
        "salads",
        "sandwiches",
    ]);
    let drink = dice.pick(&["coffee", "cold milk", "hot chocolate", "lemonade", "tea", "water"]);
    let table = 1 + dice.number(20);
    let context =
        format!("order | guest : {who} | food : {count} {dish} | drink : {drink} | table : {table}");
    let text = dice.say(&[
        format!("{who} at table {table} would like {count} {dish} and {drink}."),
        format!("Table {table} is waiting for {count} {dish}. {who} will drink {drink} with it."),
        format!("Please bring {count} {dish} and {drink} to {who}, who sits at table {table}."),
    ]);
    (context, text)
}

fn lost(dice: &mut Dice) -> (String, String) {
    let thing = dice.pick(&["bag", "book", "coat", "cup", "glove", "hat", "ring", "scarf", "umbrella"]);
    let (colour, material) = (dice.pick(COLOURS), dice.pick(MATERIALS));
    let (town, who) = (dice.pick(TOWNS), dice.pick(PEOPLE));
    let context = format!(
        "lost | thing : {thing} | colour : {colour} | made of : {material} | where : {town} | owner : {who}"
    );
    let text = dice.say(&[
        format!("{who} has lost a {colour} {thing} made of {material} in {town}."),
        format!("A {colour} {material} {thing} was left in {town}. It belongs to {who}."),
        format!("In {town} somebody found a {thing} of {colour} {material}, and {who} is the owner."),
    ]);
    (context, text)
}

fn game(dice: &mut Dice) -> (String, String) {
    let (home, away) = (dice.pick(TOWNS), dice.pick(TOWNS));
    let (left, right) = (dice.number(6), dice.number(6));
    let (day, who) = (dice.pick(DAYS), dice.pick(PEOPLE));
    let context = format!(
        "game | home : {home} | guests : {away} | result : {left} - {right} | day : {day} | best : {who}"
    );
    let first = match left.cmp(&right) {
        std::cmp::Ordering::Greater => dice.say(&[
            format!("{home} won {left} - {right} against {away} on {day}"),
            format!("On {day} {home} beat {away} {left} - {right}"),
        ]),
        std::cmp::Ordering::Less => dice.say(&[
            format!("{home} lost {left} - {right} against {away} on {day}"),
            format!("On {day} {away} beat {home} {right} - {left}"),
        ]),
        std::cmp::Ordering::Equal => dice.say(&[
            format!("{home} and {away} shared the points on {day}, {left} - {right}"),
            format!("No winner on {day}: {home} against {away} ended {left} - {right}"),
        ]),
    };
    let second = dice
        .say(&[format!(". The best player was {who}."), format!(", and nobody played better than {who}.")]);
    (context, first + &second)
}

/// Made-up words under made-up names: what is said can only be copied.
fn naming(dice: &mut Dice) -> (String, String) {
    let count = 2 + dice.number(4) as usize;
    let facts: Vec<(String, String)> = (0..count)
        .map(|_| {
            let name = word(dice);
            let value = match dice.number(3) {
                0 => (1 + dice.number(2000)).to_string(),
                1 => capitalised(&word(dice)),
                _ => word(dice),
            };
            (name, value)
        })
        .collect();
    let fields: Vec<String> = facts.iter().map(|(name, value)| format!(" | {name} : {value}")).collect();
    let said: Vec<String> = facts
        .iter()
        .map(|(name, value)| {
            dice.say(&[
                format!("the {name} is {value}"),
                format!("{value} is the {name}"),
                format!("it has {value} as its {name}"),
            ])
        })
        .collect();
    (format!("naming{}", fields.concat()), capitalised(&format!("{}.", said.join(", "))))
}

/// A word that nobody has heard, of one to three syllables.
fn word(dice: &mut Dice) -> String {
    let syllables = 1 + dice.number(3);
    let mut word = String::new();
    for _ in 0..syllables {
        let starts = [
            "b", "c", "ch", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "qu", "r", "s", "sh", "t", "v",
            "w", "x", "y", "z",
        ];
        word.push_str(dice.pick(&starts));
        word.push_str(dice.pick(&["a", "ai", "e", "ee", "i", "o", "oo", "ou", "u"]));
        word.push_str(dice.pick(&["", "", "ck", "l", "m", "n", "r", "s", "st", "w"]));
    }
    word
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

fn museum(dice: &mut Dice) -> (String, String) {
    let thing =
        dice.pick(&["bowl", "chair", "clock", "crown", "drum", "lamp", "mask", "shield", "statue", "vase"]);
    let (colour, material) = (dice.pick(COLOURS), dice.pick(MATERIALS));
    let (year, room) = (1500 + 10 * dice.number(45), 1 + dice.number(30));
    let (town, giver) = (dice.pick(TOWNS), dice.pick(PEOPLE));
    let context = format!(
        "museum | thing : {thing} | colour : {colour} | made of : {material} | year : {year} | from : {town} | room : {room} | gift of : {giver}"
    );
    let first = dice.say(&[
        format!("In room {room} stands a {colour} {thing} of {material}, made in {town} in {year}."),
        format!("The {colour} {material} {thing} in room {room} was made in {town} in {year}."),
        format!("Room {room} shows a {thing} from {town}: {colour} {material}, made in {year}."),
    ]);
    let second = dice.say(&[
        format!(" It is a gift of {giver}."),
        format!(" {giver} gave it to the museum."),
        format!(" We thank {giver} for it."),
    ]);
    (context, first + &second)
}

#[allow(dead_code, reason = "the tests read this file as a module")]
fn main() {
    let folder = std::env::args().nth(1).expect("usage: generate FOLDER");
    for part in PARTS {
        fs::write(Path::new(&folder).join(part.name), lines(&part)).expect("a folder that can be written");
    }
}
