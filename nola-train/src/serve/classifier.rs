//! The thread that says what is on images: those of one adapter that wait together are looked at together.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use burn::tensor::Device;
use nola_models::{Preprocessor, Vit, caught};
use tokio::sync::oneshot;

use super::ServedAdapter;
use super::request::Rejection;
use crate::Error;
use crate::session::{Base, Class, ImageBase};

/// Images that are looked at in one pass.
const BATCH: usize = 64;

/// Most images that wait; each is a model's input in memory.
const MOST_WAITING: usize = 256;

/// Models with adapters that are kept; those that were not used for the longest time leave first.
const MOST_MODELS: usize = 32;

/// Says what is on images; clones are doors to the same thread.
#[derive(Debug, Clone)]
pub struct Classifier {
    /// How images become the model's input.
    pub preprocessor: Preprocessor,
    /// Names of the classes of the base; none if it answers only with an adapter.
    pub labels: Vec<String>,
    jobs: Arc<Mutex<Option<SyncSender<Job>>>>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// The classes of an image, the most probable first, or why there are none.
pub type Classes = Result<Vec<Class>, String>;

#[derive(Debug)]
struct Job {
    adapter: Option<Arc<ServedAdapter>>,
    /// What the preprocessor made.
    input: Vec<f32>,
    top: usize,
    answer: oneshot::Sender<Classes>,
}

impl Job {
    fn generation(&self) -> u64 {
        self.adapter.as_ref().map_or(0, |adapter| adapter.generation)
    }
}

impl Classifier {
    /// Starts the thread.
    pub fn start(base: ImageBase, device: &Device) -> Self {
        let (jobs, waiting) = sync_channel(MOST_WAITING);
        let (preprocessor, labels) = (base.preprocessor.clone(), base.vit.config().labels.clone());
        let worker = Worker { base, device: device.clone(), models: VecDeque::new() };
        let thread =
            std::thread::Builder::new().name("classifier".to_owned()).spawn(move || worker.run(&waiting));
        let thread = thread.expect("the system starts a thread");
        Self {
            preprocessor,
            labels,
            jobs: Arc::new(Mutex::new(Some(jobs))),
            thread: Arc::new(Mutex::new(Some(thread))),
        }
    }

    /// Takes an input that the preprocessor made; its classes come to the receiver.
    ///
    /// # Errors
    /// If too many are waiting, or no more are taken.
    pub fn submit(
        &self,
        adapter: Option<Arc<ServedAdapter>>,
        input: Vec<f32>,
        top: usize,
    ) -> Result<oneshot::Receiver<Classes>, Rejection> {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let jobs = jobs.as_ref().ok_or(Rejection::Closing)?;
        let (answer, receiver) = oneshot::channel();
        match jobs.try_send(Job { adapter, input, top, answer }) {
            Ok(()) => Ok(receiver),
            Err(TrySendError::Full(_)) => Err(Rejection::Busy { waiting: MOST_WAITING, seconds: 1 }),
            Err(TrySendError::Disconnected(_)) => Err(Rejection::Broken("its thread ended".to_owned())),
        }
    }

    /// Why it answers no more, if its thread ended.
    pub fn problem(&self) -> Option<String> {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let has_ended = thread.as_ref().is_some_and(JoinHandle::is_finished);
        has_ended.then(|| "the classifier's thread ended".to_owned())
    }

    /// Takes no more images.
    pub fn close(&self) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Waits until all images that were taken are answered; to be called after [`Classifier::close`].
    pub fn join(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // Whoever waited for a panicked thread was told.
            let _ = thread.join();
        }
    }
}

struct Worker {
    base: ImageBase,
    device: Device,
    /// By generation, those used last behind.
    models: VecDeque<(u64, Vit)>,
}

impl Worker {
    fn run(mut self, jobs: &Receiver<Job>) {
        let mut waiting = VecDeque::new();
        loop {
            if waiting.is_empty() {
                let Ok(job) = jobs.recv() else { return };
                waiting.push_back(job);
            }
            // What does not go into the next pass waits in the channel, which is bounded.
            let free = BATCH.saturating_sub(waiting.len());
            waiting.extend(jobs.try_iter().take(free));
            self.answer(together(&mut waiting));
        }
    }

    /// Answers images of one adapter, in one pass.
    fn answer(&mut self, mut jobs: Vec<Job>) {
        jobs.retain(|job| !job.answer.is_closed());
        let Some(first) = jobs.first() else { return };
        let model = caught(|| self.model(first.adapter.as_deref()))
            .and_then(|model| model.map_err(|error| error.with_sources()));
        let inputs: Vec<&[f32]> = jobs.iter().map(|job| job.input.as_slice()).collect();
        let rows = model.and_then(|model| {
            let rows = caught(|| self.base.classify(&model, &inputs, &self.device));
            rows.map(|rows| (model, rows)).map_err(|problem| format!("the model failed: {problem}"))
        });
        match rows {
            Ok((model, rows)) => {
                for (job, row) in jobs.into_iter().zip(rows) {
                    let classes = ImageBase::most_probable(&model, row, job.top);
                    reply(job, classes.map_err(|value| format!("the model gives {value} for this image")));
                }
            }
            Err(problem) => jobs.into_iter().for_each(|job| reply(job, Err(problem.clone()))),
        }
    }

    fn model(&mut self, adapter: Option<&ServedAdapter>) -> Result<Vit, Error> {
        let generation = adapter.map_or(0, |adapter| adapter.generation);
        let known = self.models.iter().position(|(known, _)| *known == generation);
        let model = match known.and_then(|place| self.models.remove(place)) {
            Some((_, model)) => model,
            None => match adapter {
                Some(adapter) => {
                    let content = adapter.content.clone();
                    self.base.clone().with_adapter(content, &self.device, &|_| {})?.adapted.model
                }
                None => self.base.clone().without_adapter(&self.device)?.model,
            },
        };
        self.models.push_back((generation, model.clone()));
        if self.models.len() > MOST_MODELS {
            self.models.pop_front();
        }
        Ok(model)
    }
}

/// Takes the first job, and with it those of the same adapter that go into one pass.
fn together(waiting: &mut VecDeque<Job>) -> Vec<Job> {
    let generation = waiting.front().map_or(0, Job::generation);
    let (mut taken, mut left) = (Vec::new(), VecDeque::new());
    for job in waiting.drain(..) {
        if job.generation() == generation && taken.len() < BATCH {
            taken.push(job)
        } else {
            left.push_back(job)
        }
    }
    *waiting = left;
    taken
}

fn reply(job: Job, classes: Classes) {
    // Nobody may be waiting any more.
    let _ = job.answer.send(classes);
}
