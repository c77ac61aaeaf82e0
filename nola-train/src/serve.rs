//! Many adapters of one base behind one door: `nola-train serve`.
//!
//! [`Engine`] completes texts: one thread, one batch, in which each row has an adapter and a stage of its own. A
//! [`ServedAdapter`] is what it holds of an adapter folder; [`UpdateCache`] makes matrices of those that are used.
//! [`Classifier`] does the same for images, [`Registry`] knows all adapters by name, and [`http`] is the door.

mod adapter;
mod classifier;
mod engine;
pub mod http;
mod registry;
mod request;
mod row;
mod update_cache;
mod waiting;

pub use adapter::ServedAdapter;
pub use classifier::Classifier;
pub use engine::{Engine, EngineOptions};
pub use registry::{Change, ChangeError, Check, Entry, Expected, FixedAdapter, Missing, Registry};
pub use request::{Event, NewToken, Rejection, TextRequest, TokenScore};
pub use update_cache::UpdateCache;
pub use waiting::Counts;
