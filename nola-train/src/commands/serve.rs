//! `nola-train serve`: many adapters of one base over HTTP.

use std::env::VarError;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use burn::tensor::Device;
use clap::{Args, ValueHint};
use serde_json::json;

use super::{Global, HeldArgs, print_json};
use crate::chosen::Named;
use crate::error::ServeError;
use crate::option_values::positive;
use crate::printable::{name, path_name};
use crate::serve::http::{App, Ending, Key, Keys, Service, TextService, serve};
use crate::serve::{Change, Check, Classifier, Engine, EngineOptions, FixedAdapter, Registry, ServedAdapter};
use crate::session::{Base, ImageBase, TextBase};
use crate::settings::{DataFormat, Modality};
use crate::terminal::err_line;
use crate::text::TextError;
use crate::{Error, assets, device, notices};

/// Fewest characters of a key.
const LEAST_KEY: usize = 8;

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// A run folder: its base, and its best adapter under the name of the run.
    #[arg(
        long,
        value_name = "FOLDER",
        value_hint = ValueHint::DirPath,
        conflicts_with = "model",
        required_unless_present = "model"
    )]
    run: Option<PathBuf>,
    /// A model folder, a GGUF file, or a model's name on the hub.
    #[arg(long, value_name = "MODEL", value_hint = ValueHint::DirPath)]
    model: Option<PathBuf>,
    /// A folder of adapter folders, ours and PEFT's; each is served by its folder's name, also one that comes later. A bundle in
    /// it, or in its place, is served as BUNDLE/MEMBER. May be repeated.
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    adapters: Vec<PathBuf>,
    #[command(flatten)]
    held: HeldArgs,
    /// The address, or the name of one, to be heard at.
    #[arg(long, value_name = "HOST", default_value = "127.0.0.1")]
    host: String,
    /// The port; 0: any free one, which is printed.
    #[arg(long, value_name = "PORT", default_value_t = 8000)]
    port: u16,
    #[command(flatten)]
    keys: KeyArgs,
    /// Most texts in the batch of a text model.
    #[arg(long, value_name = "N", default_value = "32", value_parser = positive())]
    most_running: usize,
    /// Most texts that wait for a place in the batch; more are refused with status 429.
    #[arg(long, value_name = "N", default_value = "1024", value_parser = positive())]
    most_waiting: usize,
    /// Memory for keys and values of all texts, in MiB.
    #[arg(long, value_name = "MIB", default_value = "2048", value_parser = positive())]
    cache_mib: usize,
    /// Memory for the matrices of a text model's adapters that are in use, in MiB.
    #[arg(long, value_name = "MIB", default_value = "1024", value_parser = positive())]
    adapter_mib: usize,
    /// Seconds in which texts may end after an interrupt.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    drain_seconds: u32,
}

/// Who may do what.
#[derive(Debug, Args)]
struct KeyArgs {
    /// Whoever asks sends this key (`Authorization: Bearer KEY`); absent: the value of NOLA_API_KEY, else no key is needed.
    #[arg(long, value_name = "KEY", hide_default_value = true)]
    api_key: Option<String>,
    /// Let anybody ask who can reach the address, also from other machines.
    #[arg(long, conflicts_with = "api_key")]
    no_api_key: bool,
    /// Whoever loads, replaces and unloads adapters over HTTP sends this key; absent: the value of NOLA_ADMIN_KEY, else
    /// nobody can.
    #[arg(long, value_name = "KEY", hide_default_value = true)]
    admin_key: Option<String>,
}

pub fn run(args: &ServeArgs, global: &Global) -> Result<(), Error> {
    let named = args.named()?.held_in(args.held.dtype).quantized(args.held.quantize.quantize);
    let keys = args.keys.keys()?;
    // What is wrong with the address shows before a large model is loaded.
    let (listener, address) = args.listen(keys.api.is_some())?;
    let modality = named.modality()?;
    let open = device::open(global.device)?;
    let (registry, service) = match modality {
        Modality::Text => args.text(&named, &open.device)?,
        Modality::Images => args.images(&named, &open.device)?,
    };
    let is_quiet = global.quiet;
    let registry = Arc::new(registry.on_change(move |change| print_unless_quiet(is_quiet, change)));
    let base = path_name(&named.model.path);
    let served = first_scan(&registry);
    let app = App::new(Arc::clone(&registry), service.clone(), base, keys, address);
    let running = global.stop.run_that("texts that were begun are completed, and no others are taken");
    let (base, adapters) = (name(registry.base_name()).into_owned(), counted(served));
    err_line(&format!("serving {base} and {adapters} on {}, at http://{address}", open.name));
    let drain = Duration::from_secs(args.drain_seconds.into());
    let ended = serve(&app, listener, &global.stop, drain, scanning(registry, global.quiet));
    let cut = match ended.map_err(|source| ServeError::Ended { source })? {
        Ending::Drained => 0,
        Ending::Cut(connections) => connections,
    };
    service.join();
    drop(running);
    if cut > 0 {
        err_line(&format!("after {} s, connections were cut: {cut}", args.drain_seconds));
    }
    if global.json {
        let address = address.to_string();
        let device = open.name;
        print_json(
            &json!({"address": address, "base": base, "adapters": served, "cut_connections": cut, "device": device}),
        )?;
    }
    global.ended(None)
}

/// Reads all adapters; says which cannot be served, and how many are.
fn first_scan(registry: &Registry) -> usize {
    let changes = registry.scan();
    let is_wrong = |change: &&Change| matches!(change, Change::Damaged(..) | Change::Unreadable(..));
    changes.iter().filter(is_wrong).for_each(print_change);
    let served = registry.list().into_iter().filter_map(|(_, entry)| entry.served.ok());
    served.map(|served| served.adapters().len()).sum()
}

impl ServeArgs {
    fn named(&self) -> Result<Named, Error> {
        match (&self.run, &self.model) {
            (Some(run), _) => Named::of_run(run),
            (None, Some(model)) => Ok(Named::of_folders(model, None)),
            (None, None) => unreachable!("clap requires --run or --model"),
        }
    }

    /// Takes the address.
    fn listen(&self, has_key: bool) -> Result<(TcpListener, SocketAddr), Error> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let unknown = |source| ServeError::Host { host: self.host.clone(), source };
        let addresses: Vec<SocketAddr> = match host.parse::<IpAddr>() {
            Ok(address) => vec![SocketAddr::new(address, self.port)],
            Err(_) => (host, self.port).to_socket_addrs().map_err(unknown)?.collect(),
        };
        let is_open = addresses.iter().any(|address| !address.ip().is_loopback());
        if is_open && !has_key && !self.keys.no_api_key {
            return Err(ServeError::Open { host: self.host.clone() }.into());
        }
        let bound = TcpListener::bind(&addresses[..]).and_then(|listener| {
            let address = listener.local_addr()?;
            Ok((listener, address))
        });
        let address = || format!("--host {} --port {}", self.host, self.port);
        bound.map_err(|source| ServeError::Bind { address: address(), source }.into())
    }

    /// A language model with its engine.
    fn text(&self, named: &Named, device: &Device) -> Result<(Registry, Service), Error> {
        let base: TextBase = named.base(device)?;
        let encoder = base.encoder.clone();
        let generation = encoder.generation()?;
        if generation.num_beams > 1 {
            let (file, beams) = (encoder.generation_file(), generation.num_beams);
            err_line(&format!(
                "{}: `num_beams` is {beams}; the server follows one text alone",
                path_name(&file)
            ));
        }
        let (identity, of_check) = (base.identity().clone(), encoder.clone());
        let quantization = named.model.quantize.quantization();
        let check: Check = Box::new(move |adapter: &ServedAdapter| {
            adapter.content.check_base(&identity)?;
            if let Some(format @ DataFormat::Images(_)) = adapter.data.as_ref().map(|data| data.format) {
                return Err(TextError::NoText { format: format.to_string() }.into());
            }
            if let Some(path) = adapter.content.trained_in_base() {
                return Err(nola_core::Error::TrainedInBase { path }.into());
            }
            let folder = adapter.content.folder();
            notices::print(&adapter.content.notices(quantization));
            notices::print(of_check.other_template(adapter.data.as_ref(), folder).as_slice());
            Ok(())
        });
        let registry = self.registry(named, &base.identity().name, check)?;
        let options = EngineOptions {
            most_running: self.most_running,
            most_waiting: self.most_waiting,
            cache_bytes: (self.cache_mib as u64) << 20,
            adapter_bytes: (self.adapter_mib as u64) << 20,
            ..EngineOptions::default()
        };
        let base_data = if named.adapter.is_none() { named.data()? } else { None };
        let engine = Engine::start(&base, device, options);
        let text = TextService { engine, encoder, generation, base_data, most_texts: self.most_waiting };
        Ok((registry, Service::Text(Box::new(text))))
    }

    /// A vision transformer with its thread.
    fn images(&self, named: &Named, device: &Device) -> Result<(Registry, Service), Error> {
        let base: ImageBase = named.base(device)?;
        let identity = base.identity().clone();
        let quantization = named.model.quantize.quantization();
        let check: Check = Box::new(move |adapter: &ServedAdapter| {
            notices::print(&adapter.content.notices(quantization));
            adapter.content.check_base(&identity)
        });
        let registry = self.registry(named, &base.identity().name, check)?;
        Ok((registry, Service::Images(Box::new(Classifier::start(base, device)))))
    }

    fn registry(&self, named: &Named, base_name: &str, check: Check) -> Result<Registry, Error> {
        let folders =
            self.adapters.iter().map(|folder| assets::located(folder)).collect::<Result<Vec<_>, Error>>()?;
        let fixed = match (&self.run, &named.adapter) {
            (Some(run), Some(folder)) => {
                let whole = run.canonicalize().unwrap_or_else(|_| run.clone());
                let name = whole.file_name().unwrap_or(whole.as_os_str()).to_string_lossy().into_owned();
                Some(FixedAdapter { name, folder: folder.clone(), data: named.data()? })
            }
            (Some(_) | None, _) => None,
        };
        Registry::open(base_name.to_owned(), &folders, fixed, check)
    }
}

impl KeyArgs {
    fn keys(&self) -> Result<Keys, Error> {
        let api = match self.no_api_key {
            true => None,
            false => key(&self.api_key, "--api-key", "NOLA_API_KEY")?,
        };
        Ok(Keys { api, admin: key(&self.admin_key, "--admin-key", "NOLA_ADMIN_KEY")? })
    }
}

/// The key that was typed, or that the environment holds.
fn key(typed: &Option<String>, option: &'static str, variable: &'static str) -> Result<Option<Key>, Error> {
    let (text, source) = match typed {
        Some(typed) => (typed.clone(), option),
        None => match std::env::var(variable) {
            Ok(text) if !text.is_empty() => (text, variable),
            Ok(_) | Err(VarError::NotPresent) => return Ok(None),
            // Without it the server would be open to all who reach it.
            Err(VarError::NotUnicode(_)) => return Err(ServeError::Key { option: variable }.into()),
        },
    };
    if text.len() < LEAST_KEY || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ServeError::Key { option: source }.into());
    }
    Ok(Some(Key::new(&text)))
}

/// Looks at the folders of adapters, and says what changed.
fn scanning(registry: Arc<Registry>, is_quiet: bool) -> impl Fn() + Clone + Send + 'static {
    move || registry.scan().iter().for_each(|change| print_unless_quiet(is_quiet, change))
}

fn print_unless_quiet(is_quiet: bool, change: &Change) {
    if !is_quiet {
        print_change(change);
    }
}

fn counted(adapters: usize) -> String {
    match adapters {
        1 => "1 adapter".to_owned(),
        _ => format!("{adapters} adapters"),
    }
}

fn print_change(change: &Change) {
    err_line(&match change {
        Change::Served(adapter, generation) => {
            format!("adapter {}: served, generation {generation}", name(adapter))
        }
        Change::Damaged(adapter, problem) => format!("adapter {}: not served: {problem}", name(adapter)),
        Change::Unreadable(folder, problem) => {
            format!("{}: cannot be read; what was served of it still is: {problem}", path_name(folder))
        }
        Change::Gone(adapter) => format!("adapter {}: gone", name(adapter)),
    });
}
