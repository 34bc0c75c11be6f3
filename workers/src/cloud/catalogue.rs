//! The region's instance types, looked at once a day.
//!
//! Which types there are and which zone offers them changes a few times a year; asking takes up to ten pages.
//! What was answered is kept in memory for [`KEPT_FOR`]: losing it costs calls, nothing else. Prices and
//! scores are never kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use perennial_engine::clock::Clock;
use perennial_workflows::model::survey::TypeFacts;

use crate::port::error::CloudError;
use crate::port::{Cloud, TypeQuery};

/// How long an answer is kept: a type that AWS adds is found the next day.
pub const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);

/// How many answers of a kind are kept. Two architectures and some dozen lists of types; half a megabyte each
/// at most. When it is full, all of them go.
const ANSWERS_MAX: usize = 64;

/// The catalogue.
pub struct Catalogue {
    cloud: Arc<dyn Cloud>,
    clock: Clock,
    types: Answers<TypeQuery, Vec<TypeFacts>>,
    offered: Answers<String, BTreeSet<String>>,
}

/// Answers with the time they were given, in milliseconds.
type Answers<Q, A> = Mutex<BTreeMap<Q, (u64, Arc<A>)>>;

impl Catalogue {
    /// An empty catalogue.
    #[must_use]
    pub fn new(cloud: Arc<dyn Cloud>, clock: Clock) -> Self {
        Self { cloud, clock, types: Mutex::default(), offered: Mutex::default() }
    }

    /// The types.
    ///
    /// # Errors
    /// Of the call, if one was needed.
    pub async fn types(&self, query: &TypeQuery) -> Result<Arc<Vec<TypeFacts>>, CloudError> {
        if let Some(known) = self.recall(&self.types, query) {
            return Ok(known);
        }
        let found = self.cloud.instance_types(query).await?;
        Ok(self.keep(&self.types, query.clone(), found))
    }

    /// The names of the types that a zone offers.
    ///
    /// # Errors
    /// Of the call, if one was needed.
    pub async fn offered(&self, zone: &str) -> Result<Arc<BTreeSet<String>>, CloudError> {
        let key = zone.to_owned();
        if let Some(known) = self.recall(&self.offered, &key) {
            return Ok(known);
        }
        let found = self.cloud.offered_types(zone).await?;
        Ok(self.keep(&self.offered, key, found))
    }

    fn recall<Q: Ord, A>(&self, answers: &Answers<Q, A>, question: &Q) -> Option<Arc<A>> {
        let answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
        let (at_ms, known) = answers.get(question)?;
        let age = Duration::from_millis(self.clock.monotonic_ms().saturating_sub(*at_ms));
        (age < KEPT_FOR).then(|| Arc::clone(known))
    }

    fn keep<Q: Ord, A>(&self, answers: &Answers<Q, A>, question: Q, answer: A) -> Arc<A> {
        let answer = Arc::new(answer);
        let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= ANSWERS_MAX {
            answers.clear();
        }
        answers.insert(question, (self.clock.monotonic_ms(), Arc::clone(&answer)));
        answer
    }
}
