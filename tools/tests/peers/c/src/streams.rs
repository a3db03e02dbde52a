//! Publications and subscriptions by name.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::{Value, json};

use crate::client::{Client, Failure};
use crate::command::Command;
use crate::messages;
use crate::publication::{Adding, Outcome, Publication};
use crate::subscription::{Assembler, Subscription};
use crate::wait::Wait;

/// So many offers that are refused in a row are no hiccup.
const BLOCKED_REFUSALS: u32 = 200;

type Shared<T> = Arc<Mutex<T>>;
type Named<T> = Mutex<BTreeMap<String, Shared<T>>>;

pub struct Streams {
    client: Arc<Client>,
    publications: Named<Publication>,
    subscriptions: Named<Subscription>,
    adding: Mutex<BTreeMap<String, Adding>>,
}

fn named<T>(all: &Named<T>, command: &Command, key: &str) -> Result<Shared<T>, Failure> {
    let name = command.text(key)?;
    let found = all.lock().unwrap().get(name).cloned();
    found.ok_or_else(|| Failure::of(format!("there is no {name}")))
}

impl Streams {
    pub fn new(client: Arc<Client>) -> Self {
        let (publications, subscriptions) = (Named::default(), Named::default());
        Self { client, publications, subscriptions, adding: Mutex::default() }
    }

    fn put(&self, name: &str, publication: Publication) -> Result<Value, Failure> {
        let reply = publication.describe();
        self.publications.lock().unwrap().insert(name.to_owned(), Arc::new(Mutex::new(publication)));
        reply
    }

    fn begin(&self, command: &Command) -> Result<Adding, Failure> {
        let (channel, stream) = (command.c_text("channel")?, command.integer("stream")?);
        Adding::begin(&self.client, &channel, stream, command.flag("exclusive"))
    }

    pub fn publish(&self, command: &Command) -> Result<Value, Failure> {
        self.put(command.text("name")?, self.begin(command)?.finish()?)
    }

    /// Begins to add a publication, which `await` finishes and `cancel` gives up.
    pub fn publish_async(&self, command: &Command) -> Result<Value, Failure> {
        let adding = self.begin(command)?;
        self.adding.lock().unwrap().insert(command.text("name")?.to_owned(), adding);
        Ok(json!({ "registration": adding.registration() }))
    }

    fn take(&self, command: &Command) -> Result<Adding, Failure> {
        let name = command.text("name")?;
        let found = self.adding.lock().unwrap().remove(name);
        found.ok_or_else(|| Failure::of(format!("{name} is not being added")))
    }

    pub fn finish(&self, command: &Command) -> Result<Value, Failure> {
        self.put(command.text("name")?, self.take(command)?.finish()?)
    }

    pub fn cancel(&self, command: &Command) -> Result<Value, Failure> {
        self.take(command)?.cancel(&self.client)?;
        Ok(json!({}))
    }

    pub fn subscribe(&self, command: &Command) -> Result<Value, Failure> {
        let subscription =
            Subscription::add(&self.client, command.c_text("channel")?, command.integer("stream")?)?;
        let reply = json!({ "registration": subscription.registration()? });
        let name = command.text("name")?.to_owned();
        self.subscriptions.lock().unwrap().insert(name, Arc::new(Mutex::new(subscription)));
        Ok(reply)
    }

    pub fn subscription(
        &self,
        command: &Command,
        act: impl FnOnce(&Mutex<Subscription>) -> Result<Value, Failure>,
    ) -> Result<Value, Failure> {
        act(&*named(&self.subscriptions, command, "name")?)
    }

    pub fn connected(&self, command: &Command) -> Result<Value, Failure> {
        let publication = named(&self.publications, command, "name")?;
        let wanted = command.find("is") != Some("false");
        Wait::until(format!("connected={wanted}"), || {
            Ok((publication.lock().unwrap().is_connected()? == wanted).then_some(()))
        })?;
        publication.lock().unwrap().describe()
    }

    pub fn images(&self, command: &Command) -> Result<Value, Failure> {
        let subscription = named(&self.subscriptions, command, "name")?;
        let count: usize = command.number("count")?;
        Wait::until(format!("{count} images"), || {
            Ok((subscription.lock().unwrap().image_count()? == count).then_some(()))
        })?;
        Ok(json!({ "images": subscription.lock().unwrap().images()? }))
    }

    /// Waits for the end of one image, whether its stream comes back as another one or not.
    pub fn unavailable(&self, command: &Command) -> Result<Value, Failure> {
        let subscription = named(&self.subscriptions, command, "name")?;
        let image: i64 = command.number("image")?;
        Wait::until(format!("the end of image {image}"), || {
            let images = subscription.lock().unwrap().images()?;
            Ok(images.iter().all(|found| found["correlation"] != image).then_some(()))
        })?;
        Ok(json!({}))
    }

    /// Offers numbered messages, or claims them when they fit a frame and `claim=true`.
    pub fn send(&self, command: &Command) -> Result<Value, Failure> {
        let publication = named(&self.publications, command, "name")?;
        let from: u64 = command.number_or("from", 0)?;
        let end = from + command.number::<u64>("count")?;
        let is_claimed = command.flag("claim");
        let mut message = vec![0; command.number("length")?];
        let mut wait = Wait::new("room for all messages");
        let mut number = from;
        while number < end {
            messages::fill(&mut message, number);
            let publication = publication.lock().unwrap();
            let is_sent = if is_claimed {
                match publication.try_claim(message.len())? {
                    Some(mut claim) => {
                        claim.message().copy_from_slice(&message);
                        claim.commit()?;
                        true
                    }
                    None => false,
                }
            } else {
                matches!(publication.offer(&message)?, Outcome::Done)
            };
            drop(publication);
            number += u64::from(is_sent);
            wait.idle(is_sent)?;
        }
        Ok(json!({ "position": publication.lock().unwrap().position()? }))
    }

    /// A claim that is given back.
    pub fn abort(&self, command: &Command) -> Result<Value, Failure> {
        let publication = named(&self.publications, command, "name")?;
        let length = command.number("length")?;
        let claim = Wait::until("room", || publication.lock().unwrap().try_claim(length))?;
        claim.abort()?;
        Ok(json!({ "position": publication.lock().unwrap().position()? }))
    }

    /// A claim that is neither committed nor aborted.
    pub fn hang(&self, command: &Command) -> Result<Value, Failure> {
        let publication = named(&self.publications, command, "name")?;
        let length = command.number("length")?;
        Wait::until("room", || publication.lock().unwrap().try_claim(length))?;
        Ok(json!({ "position": publication.lock().unwrap().position()? }))
    }

    pub fn receive(&self, command: &Command) -> Result<Value, Failure> {
        let subscription = named(&self.subscriptions, command, "name")?;
        let length: usize = command.number("length")?;
        let from: u64 = command.number_or("from", 0)?;
        let end = from + command.number::<u64>("count")?;
        let mut assembler = Assembler::new()?;
        let mut wait = Wait::new(format!("message {from} to {end}"));
        let (mut next, mut checked) = (from, Ok(()));
        while next < end {
            let polled = assembler.poll(&subscription.lock().unwrap(), |message| {
                if checked.is_ok() {
                    checked = messages::check(message, length, next);
                }
                next += 1;
            })?;
            std::mem::replace(&mut checked, Ok(()))?;
            wait.idle(polled > 0)?;
        }
        Ok(json!({ "next": next }))
    }

    /// Takes fragments and says what times they carry: in the reserved value and in the first words of the payload.
    pub fn stamps(&self, command: &Command) -> Result<Value, Failure> {
        let subscription = named(&self.subscriptions, command, "name")?;
        let count: usize = command.number("count")?;
        let mut fragments = Vec::new();
        let mut wait = Wait::new("fragments");
        let word = |payload: &[u8], at: usize| {
            payload.get(at..at + 8).map_or(0, |bytes| i64::from_le_bytes(bytes.try_into().unwrap()))
        };
        while fragments.len() < count {
            let polled = subscription.lock().unwrap().poll(|payload, header| {
                fragments.push(json!({
                    "flags": header.flags,
                    "reserved": header.reserved_value,
                    "first": word(payload, 0),
                    "second": word(payload, 8),
                }));
            })?;
            wait.idle(polled > 0)?;
        }
        Ok(json!({ "fragments": fragments }))
    }

    /// One subscription is polled, another, untethered, is not. Says when, in ms, the publication was blocked by that
    /// one, the other lost its image, the publication went on, and the image came back.
    pub fn tether(&self, command: &Command) -> Result<Value, Failure> {
        let publication = named(&self.publications, command, "name")?;
        let polled = named(&self.subscriptions, command, "polled")?;
        let resting = named(&self.subscriptions, command, "resting")?;
        let start = Instant::now();
        let mut times_ms = Vec::new();
        let mut last_offer_ms = 0;
        let (mut refusals, mut join) = (0, None);
        let mut wait = Wait::new("the end of the scenario");
        while times_ms.len() < 4 {
            let now_ms = start.elapsed().as_millis() as u64;
            let is_offered = matches!(publication.lock().unwrap().offer(&[0; 1_000])?, Outcome::Done);
            refusals = if is_offered { 0 } else { refusals + 1 };
            // There is none while it rests.
            let joined = resting.lock().unwrap().positions().ok().map(|(join, _)| join);
            match times_ms.len() {
                0 if refusals > BLOCKED_REFUSALS && now_ms - last_offer_ms > 100 => {
                    times_ms.push(last_offer_ms)
                }
                1 if joined.is_none() => times_ms.push(now_ms),
                2 if is_offered => times_ms.push(now_ms),
                3 if joined.is_some() => {
                    join = joined;
                    times_ms.push(now_ms);
                }
                _ => {}
            }
            if is_offered {
                last_offer_ms = now_ms;
            }
            let fragments = polled.lock().unwrap().poll(|_, _| ())?;
            wait.idle(fragments > 0)?;
        }
        Ok(json!({
            "blocked": times_ms[0],
            "unavailable": times_ms[1],
            "flowing": times_ms[2],
            "available": times_ms[3],
            "join": join,
            "polled": polled.lock().unwrap().positions()?.1,
        }))
    }

    /// Takes fragments without a look at them.
    pub fn drain(&self, command: &Command) -> Result<Value, Failure> {
        let subscription = named(&self.subscriptions, command, "name")?;
        let mut wait = Wait::new("fragments");
        let mut left: i64 = command.number("fragments")?;
        while left > 0 {
            let polled = subscription.lock().unwrap().poll(|_, _| ())?;
            left -= polled as i64;
            wait.idle(polled > 0)?;
        }
        Ok(json!({ "surplus": -left }))
    }

    /// Adds a destination of a publication, or removes it by its channel or its id.
    pub fn destination(&self, command: &Command) -> Result<Value, Failure> {
        let publication = named(&self.publications, command, "name")?;
        let publication = publication.lock().unwrap();
        if command.find("id").is_some() {
            publication.remove_destination_by_id(&self.client, command.number("id")?)?;
        } else if command.flag("remove") {
            publication.remove_destination(&self.client, &command.c_text("channel")?)?;
        } else {
            let id = publication.add_destination(&self.client, &command.c_text("channel")?)?;
            return Ok(json!({ "registration": id }));
        }
        Ok(json!({}))
    }

    /// Adds a destination of a subscription, or removes it.
    pub fn receive_destination(&self, command: &Command) -> Result<Value, Failure> {
        let subscription = named(&self.subscriptions, command, "name")?;
        let subscription = subscription.lock().unwrap();
        let channel = command.c_text("channel")?;
        if command.flag("remove") {
            subscription.remove_destination(&self.client, &channel)?;
        } else {
            subscription.add_destination(&self.client, &channel)?;
        }
        Ok(json!({}))
    }

    pub fn reject(&self, command: &Command) -> Result<Value, Failure> {
        let subscription = named(&self.subscriptions, command, "name")?;
        subscription.lock().unwrap().reject(&command.c_text("reason")?)?;
        Ok(json!({}))
    }

    pub fn revoke(&self, command: &Command) -> Result<Value, Failure> {
        let publication = named(&self.publications, command, "name")?;
        self.publications.lock().unwrap().remove(command.text("name")?);
        publication.lock().unwrap().revoke(&self.client)?;
        Ok(json!({}))
    }

    pub fn close(&self, command: &Command) -> Result<Value, Failure> {
        let name = command.text("name")?;
        let publication = self.publications.lock().unwrap().remove(name);
        let subscription = self.subscriptions.lock().unwrap().remove(name);
        let is_closed = publication.is_some() || subscription.is_some();
        if let Some(publication) = publication {
            publication.lock().unwrap().close(&self.client)?;
        }
        if let Some(subscription) = subscription {
            subscription.lock().unwrap().close(&self.client)?;
        }
        Ok(json!({ "closed": is_closed }))
    }
}
