//! Many adapters of one base behind one door: `nola-train serve`.
//!
//! [`Engine`] completes texts: one thread, one batch, in which each row has an adapter and a stage of its own; another thread
//! makes matrices of the adapters that are used, which a cache keeps ([`Lru`]). A [`ServedAdapter`] is what it holds of an adapter
//! folder, or of a member of a bundle. [`Classifier`] does the same for images, [`Registry`] knows all adapters by name, and
//! [`http`] is the door.

mod adapter;
mod batch;
mod classifier;
mod engine;
mod engine_options;
pub mod http;
mod lru;
mod registry;
mod request;
mod row;
mod shared_prompt;
mod update_cache;
mod update_maker;
mod waiting;

pub use adapter::ServedAdapter;
pub use classifier::Classifier;
pub use engine::Engine;
pub use engine_options::EngineOptions;
pub use lru::{Lru, Size};
pub use registry::{Change, ChangeError, Check, Entry, Expected, FixedAdapter, Missing, Registry, Served};
pub use request::{Event, NewToken, Rejection, TextRequest, TokenScore};
pub use waiting::Counts;
