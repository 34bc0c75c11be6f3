//! The survey: what its pure function promises for any catalogue, and which step waits for it.

use std::collections::{BTreeMap, BTreeSet};

use perennial_engine::domain::Stamp;
use perennial_engine::ids::Seq;
use perennial_workflows::model::aws::{InstanceState, Market, SubnetId};
use perennial_workflows::model::boot::{Boots, Needs};
use perennial_workflows::model::capacity::MarketPolicy;
use perennial_workflows::model::operation_id::{OperationId, OperationKind};
use perennial_workflows::model::requirements::CapacityOrder;
use perennial_workflows::model::signal::{Cause, News, Signal, Source};
use perennial_workflows::model::survey::{
    Looked, PassedOver, Place, Question, REJECTED_MAX, Ranked, Survey, TypeFacts,
};
use perennial_workflows::operation::event::{OperationEvent, Order};
use perennial_workflows::operation::state::Status;
use perennial_workflows::rules::ranking::{
    CONSIDERED_MAX, FOUND_MAX, RANKED_MAX, candidates, micro_dollars, resolve,
};
use perennial_workflows::spec::node::{NetworkMode, NodeSpec, OnDemandSpec, RootMode, example};
use perennial_workflows::step::evidence::Evidence;
use perennial_workflows::step::intent::{Intent, Launch};
use perennial_workflows::view::history::story;
use perennial_workflows::view::plan::imagined_resources;
use proptest::prelude::{Just, Strategy, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use serde_json::json;

use crate::run::{Run, asked, order};

fn place(n: u8) -> Place {
    let zone = char::from(b'a' + n);
    Place { subnet: SubnetId::parse(&format!("subnet-{n}")).unwrap(), zone: format!("z{zone}") }
}

fn facts() -> impl Strategy<Value = Vec<TypeFacts>> {
    let families = prop_oneof![Just("m6i"), Just("m6a"), Just("t3"), Just("g5"), Just("m7g")];
    let one = (families, 0_u32..40, 1_u32..6, 1_u32..40, any::<u8>());
    prop::collection::vec(one, 0..150).prop_map(|types| {
        let named: BTreeMap<String, TypeFacts> = types
            .into_iter()
            .map(|(family, size, vcpus, memory_gib, traits)| {
                let name = format!("{family}.{size}xlarge");
                let facts = TypeFacts {
                    name: name.clone(),
                    vcpus,
                    memory_mib: memory_gib * 1_024,
                    gpus: u32::from(family == "g5"),
                    architectures: vec![if family == "m7g" { "arm64" } else { "x86_64" }.to_owned()],
                    burstable: family == "t3",
                    bare_metal: traits % 16 == 1,
                    current: traits % 16 != 2,
                    on_spot: traits % 16 != 3,
                    on_demand: traits % 16 != 4,
                    boots: Boots {
                        modes: vec![if traits % 16 == 5 { "legacy-bios" } else { "uefi" }.to_owned()],
                        requires_ena: traits % 16 == 6,
                        lacks_tpm: traits % 16 == 7,
                    },
                };
                (name, facts)
            })
            .collect();
        named.into_values().collect()
    })
}

fn questions() -> impl Strategy<Value = Question> {
    let orders =
        prop_oneof![Just(CapacityOrder::Listed), Just(CapacityOrder::Price), Just(CapacityOrder::Score)];
    let markets = prop_oneof![
        Just(MarketPolicy::SpotOnly),
        Just(MarketPolicy::SpotThenOnDemand),
        Just(MarketPolicy::OnDemandOnly)
    ];
    let listed = prop::collection::btree_set(0_u32..40, 0..6);
    (orders, markets, listed, any::<[bool; 3]>(), 1_u8..4, 1_u32..5).prop_map(
        |(order, market, listed, [requires, bounded, burstable], places, vcpus)| Question {
            image: Needs {
                boot_mode: (vcpus % 2 == 0).then(|| "uefi".to_owned()),
                no_ena: vcpus % 3 == 0,
                tpm: vcpus == 4,
            },
            architecture: "x86_64".into(),
            instance_types: listed.into_iter().map(|size| format!("m6i.{size}xlarge")).collect(),
            requirements: requires.then(|| {
                serde_json::from_value(json!({
                    "vcpus": { "min": vcpus }, "memory_gib": { "min": 4, "max": 32 }, "burstable": burstable,
                    "exclude": ["m6a.1*"]
                }))
                .unwrap()
            }),
            order,
            market,
            price_max: bounded.then(|| "0.5".to_owned()),
            places: (0..places).map(place).collect(),
            needed: false,
        },
    )
}

/// What is seen of a region with these types, by a number that decides what is known.
fn looked(types: Vec<TypeFacts>, seed: u64) -> Looked {
    let chance = |name: &str, zone: &str| {
        let text = format!("{name} {zone} {seed}");
        text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    };
    let mut seen = Looked::default();
    for n in 0..3 {
        let zone = place(n).zone;
        if chance("offers", &zone) % 4 > 0 {
            let offered = types.iter().filter(|facts| chance(&facts.name, &zone) % 5 > 0);
            seen.offered.insert(zone.clone(), offered.map(|facts| facts.name.clone()).collect());
        }
        let priced = types.iter().filter(|facts| chance(&facts.name, "priced") % 6 > 0);
        let priced = priced.map(|facts| {
            let price = chance(&facts.name, &zone) % 1_000_000;
            (facts.name.clone(), format!("{}.{price:06}", 0))
        });
        seen.prices.insert(zone.clone(), priced.collect());
        if chance("scores", &zone) % 3 > 0 {
            seen.scores.insert(zone.clone(), (chance("score", &zone) % 10 + 1) as u8);
        }
    }
    seen.types = Some(types);
    seen
}

fn cost(ranked: &Ranked) -> u64 {
    ranked.price.as_deref().and_then(micro_dollars).unwrap_or(u64::MAX)
}

proptest! {
    #[test]
    fn a_survey_keeps_its_promises(question in questions(), types in facts(), seed in any::<u64>()) {
        let seen = looked(types.clone(), seed);
        let survey = resolve(&question, &seen);
        let (names, _) = candidates(&question, Some(&types));
        let by_name: BTreeMap<&str, &TypeFacts> = types.iter().map(|facts| (facts.name.as_str(), facts)).collect();
        prop_assert!(survey.pools.len() <= RANKED_MAX && survey.rejected.len() <= REJECTED_MAX);
        prop_assert!(names.len() <= question.instance_types.len() + CONSIDERED_MAX);
        let distinct: BTreeSet<_> =
            survey.pools.iter().map(|pool| (&pool.instance_type, pool.market, &pool.subnet)).collect();
        prop_assert_eq!(distinct.len(), survey.pools.len(), "no pool is asked twice");
        for pool in &survey.pools {
            let known = by_name[pool.instance_type.as_str()];
            prop_assert!(known.architectures.contains(&question.architecture), "{}", pool);
            prop_assert_eq!(question.image.missing(&known.boots), None, "{}", pool);
            let zone = &question.places.iter().find(|place| place.subnet == pool.subnet).unwrap().zone;
            prop_assert!(seen.offered.get(zone).is_none_or(|offered| offered.contains(&pool.instance_type)));
            prop_assert!(pool.market != Market::Spot || known.on_spot);
            prop_assert!(pool.market != Market::OnDemand || known.on_demand && pool.price.is_none());
            let too_much = question.price_max.is_some() && pool.price.is_some() && cost(pool) > 500_000;
            prop_assert!(!too_much, "{} is above the most that is paid", pool);
            if !question.instance_types.contains(&pool.instance_type) {
                let wanted = question.requirements.as_ref().unwrap();
                prop_assert!(wanted.vcpus.admits(known.vcpus) && wanted.memory_gib.admits(known.memory_mib / 1_024));
                prop_assert!(known.gpus == 0 && !known.bare_metal && known.current);
                prop_assert!(wanted.burstable || !known.burstable);
                prop_assert!(!pool.instance_type.starts_with("m6a.1"));
            }
        }
        // The node's own subnet first, every subnet in one piece, and in it spot before on-demand.
        let mut order: Vec<(&SubnetId, Market)> =
            survey.pools.iter().map(|pool| (&pool.subnet, pool.market)).collect();
        order.dedup();
        let pieces: BTreeSet<_> = order.iter().collect();
        prop_assert_eq!(pieces.len(), order.len());
        if survey.pools.iter().any(|pool| pool.subnet == question.places[0].subnet) {
            prop_assert_eq!(&survey.pools[0].subnet, &question.places[0].subnet);
        }
        for place in &question.places {
            let of = |market| survey.pools.iter().filter(move |pool| pool.subnet == place.subnet && pool.market == market);
            let spot: Vec<&Ranked> = of(Market::Spot).collect();
            if question.order == CapacityOrder::Price {
                prop_assert!(spot.is_sorted_by_key(|pool| cost(pool)));
            } else {
                let listed: Vec<&String> = spot.iter().map(|pool| &pool.instance_type).filter(|name| question.instance_types.contains(*name)).collect();
                let expected: Vec<&String> = question.instance_types.iter().filter(|name| listed.contains(name)).collect();
                prop_assert_eq!(listed, expected, "the list's order");
            }
            for market in [Market::Spot, Market::OnDemand] {
                let found = of(market).filter(|pool| !question.instance_types.contains(&pool.instance_type));
                prop_assert!(found.count() <= FOUND_MAX);
            }
        }
        // What was considered is asked, or the survey says why not.
        let left_out = survey.rejected_more > 0 || survey.notes.iter().any(|note| note.contains("the first"));
        let spot = question.market != MarketPolicy::OnDemandOnly;
        for (name, place) in names.iter().flat_map(|name| question.places.iter().map(move |place| (name, place))) {
            let asked = survey.pools.iter().any(|pool| pool.instance_type == *name && pool.subnet == place.subnet && (pool.market == Market::Spot) == spot);
            let passed = |passed: &PassedOver| passed.instance_type == *name && passed.zone.as_ref() == Some(&place.zone);
            prop_assert!(asked || left_out || survey.rejected.iter().any(passed), "{name} in {} is forgotten", place.zone);
        }
        // The order in which EC2 names its types makes no difference.
        let mut turned = seen;
        turned.types.as_mut().unwrap().reverse();
        prop_assert_eq!(resolve(&question, &turned), survey);
    }
}

#[test]
fn prices_are_compared_as_numbers() {
    assert_eq!(micro_dollars("0.1"), Some(100_000));
    assert_eq!(micro_dollars("0.100000"), Some(100_000));
    assert_eq!(micro_dollars("12"), Some(12_000_000));
    for wrong in ["", "cheap", "-1", "inf", "NaN", "1e9"] {
        assert_eq!(micro_dollars(wrong), None, "{wrong}");
    }
}

fn spec(network: NetworkMode) -> NodeSpec {
    let mut spec = example("db-1", network, RootMode::Adopt);
    spec.capacity.instance_types.clear();
    spec.capacity.requirements =
        Some(serde_json::from_value(json!({ "vcpus": { "min": 2 }, "memory_gib": { "min": 8 } })).unwrap());
    spec.check().unwrap();
    spec
}

fn provision(spec: &NodeSpec) -> Run {
    Run::start(OperationKind::Provision, spec, asked(), None)
}

fn replace(spec: &NodeSpec) -> Run {
    Run::start(OperationKind::Replace, spec, asked(), None)
}

impl Run {
    /// The names of the open steps, without the ids in them.
    fn open(&self) -> Vec<String> {
        let steps = self.state.open_steps();
        steps.iter().map(|step| step.step.split(":i-").next().unwrap().to_owned()).collect()
    }

    fn has(&self, step: &str) -> bool {
        self.open().iter().any(|open| open == step)
    }

    fn question(&self) -> Question {
        let open = self.state.open_steps();
        let found = open.iter().find_map(|step| match step.intent.as_ref() {
            Intent::Survey(question) => Some(question.clone()),
            _ => None,
        });
        found.unwrap_or_else(|| panic!("{open:?}"))
    }

    fn pools(&self, prices: &[(&str, Market)]) -> Evidence {
        let subnet = self.state.facts.subnet.clone();
        let pools = prices.iter().map(|(name, market)| Ranked {
            instance_type: (*name).to_owned(),
            market: *market,
            subnet: subnet.clone(),
            price: None,
            score: None,
        });
        Evidence::Surveyed(Survey { pools: pools.collect(), ..Survey::default() })
    }

    fn launch(&self) -> String {
        let open = self.state.open_steps();
        let launch = open.iter().find_map(|step| match step.intent.as_ref() {
            Intent::Launch(Launch { pool, rank, .. }) => {
                Some(format!("{pool}, {}", rank.as_ref().map_or_else(String::new, ToString::to_string)))
            }
            _ => None,
        });
        launch.unwrap_or_else(|| panic!("{open:?}"))
    }
}

fn too_expensive() -> Evidence {
    Evidence::Surveyed(Survey {
        rejected: vec![PassedOver {
            instance_type: "m5.large".into(),
            market: Some(Market::Spot),
            zone: None,
            price: Some("0.9".into()),
            because: "costs 0.9 an hour, at most 0.1 is paid".into(),
        }],
        ..Survey::default()
    })
}

fn no_capacity() -> Evidence {
    Evidence::NoCapacity { code: "InsufficientInstanceCapacity".into(), message: "none".into() }
}

fn out_of_time() -> Evidence {
    Evidence::OutOfTime { because: "nothing was heard".into() }
}

#[test]
fn a_first_provision_launches_what_its_survey_found() {
    let mut run = provision(&spec(NetworkMode::SecondaryIp));
    assert_eq!(run.open(), ["resolve"]);
    run.settle("resolve", None);
    assert_eq!(run.open(), ["survey", "create_volume:data"]);
    assert!(run.question().needed);
    let found = run.pools(&[("m5.large", Market::Spot), ("r5.large", Market::OnDemand)]);
    run.settle("survey", Some(found));
    assert_eq!(run.launch(), "m5.large spot, 1 of 2 surveyed");
    run.settle("launch", Some(no_capacity()));
    assert_eq!(run.launch(), "r5.large on-demand, 2 of 2 surveyed");
    // After the last pool another look, when the pause is over; the launch waits for it.
    run.settle("launch", Some(no_capacity()));
    assert!(run.has("survey") && !run.has("launch"), "{:?}", run.open());
    assert!(!run.question().needed);
    let found = run.pools(&[("c5.large", Market::Spot)]);
    run.settle("survey", Some(found));
    assert!(run.now_ms >= 15_000, "{} ms", run.now_ms);
    assert_eq!(run.launch(), "c5.large spot, 1 of 1 surveyed");
}

#[test]
fn a_survey_without_an_answer_gives_way_to_the_last_one_but_not_to_nothing() {
    let spec = spec(NetworkMode::SecondaryIp);
    let refused = Evidence::Refused { code: "UnauthorizedOperation".into(), message: "no".into() };
    for evidence in [out_of_time(), refused.clone(), Evidence::Surveyed(Survey::default())] {
        let mut run = replace(&spec);
        assert!(!run.question().needed);
        run.settle("survey", Some(evidence));
        assert!(run.launch().starts_with("a type that fits spot"), "{}", run.launch());
    }
    for (evidence, why) in [
        (out_of_time(), "its time is over"),
        (refused, "the region's instance types cannot be looked at"),
        (Evidence::Surveyed(Survey::default()), "no instance type fits"),
    ] {
        let mut run = provision(&spec);
        run.settle("resolve", None);
        run.settle("survey", Some(evidence));
        let Status::Stuck { because, .. } = &run.state.status else { panic!("{:?}", run.state.status) };
        assert!(because.contains(why), "{because}");
    }
}

#[test]
fn another_file_makes_the_last_survey_void() {
    let old = spec(NetworkMode::SecondaryIp);
    let before = imagined_resources(&old).unwrap();
    let mut new = old;
    new.capacity.requirements.as_mut().unwrap().vcpus.min = 4;
    let run = Run::of(Order { before: before.clone(), ..order(OperationKind::Replace, &new, asked()) });
    assert!(run.question().needed);
    // A list is something to go by.
    new.capacity.instance_types = vec!["m6i.xlarge".into()];
    let mut run = Run::of(Order { before, ..order(OperationKind::Replace, &new, asked()) });
    assert!(!run.question().needed);
    run.settle("survey", Some(out_of_time()));
    assert_eq!(run.launch(), "m6i.xlarge spot, ");
}

#[test]
fn the_old_instance_stays_until_it_is_known_where_to_go() {
    let mut spec = spec(NetworkMode::PrimaryEni);
    spec.capacity.market = MarketPolicy::SpotOnly;
    spec.capacity.price_max = Some("0.1".into());
    let mut run = replace(&spec);
    assert_eq!(run.open(), ["preserve", "survey"]);
    run.settle("preserve", None);
    assert_eq!(run.open(), ["survey"]);
    // Too expensive now: another look later, and nothing is taken away meanwhile.
    run.settle("survey", Some(too_expensive()));
    assert_eq!(run.open(), ["survey"]);
    let again = run.state.open_steps()[0].not_before_ms;
    assert!(again >= run.now_ms + 7_000, "{again}");
    let found = run.pools(&[("m5.large", Market::Spot)]);
    run.settle("survey", Some(found));
    assert_eq!(run.open(), ["fence"]);
}

#[test]
fn an_instance_that_is_gone_waits_for_no_survey() {
    let spec = spec(NetworkMode::PrimaryEni);
    let before = imagined_resources(&spec).unwrap();
    let instance = before.carrier.as_ref().unwrap().instance.clone();
    let news = News::StateChange { state: InstanceState::Terminated };
    let signal = Signal { instance, news, source: Source::Sweep, at_ms: 0 };
    let run = Run::of(Order { before, ..order(OperationKind::Replace, &spec, Cause::Signal { signal }) });
    assert_eq!(run.open(), ["fence", "survey"]);
}

#[test]
fn on_demand_that_was_waited_for_is_asked_after_the_next_survey() {
    let mut spec = spec(NetworkMode::SecondaryIp);
    spec.capacity.on_demand = OnDemandSpec { after_s: 10, max_nodes: None };
    let mut run = replace(&spec);
    let pools = [("m5.large", Market::Spot), ("m5.large", Market::OnDemand)];
    let found = run.pools(&pools);
    run.settle("survey", Some(found.clone()));
    run.settle("launch", Some(no_capacity()));
    run.settle("survey", Some(found));
    assert!(run.launch().starts_with("m5.large on-demand"), "{} at {} ms", run.launch(), run.now_ms);
    assert!(run.now_ms >= 10_000, "{} ms", run.now_ms);
}

#[test]
fn a_pause_does_not_wait_for_a_survey() {
    let spec = spec(NetworkMode::SecondaryIp);
    let mut run = provision(&spec);
    run.settle("resolve", None);
    let mut draft = run.draft();
    draft.divert(asked(), None).unwrap();
    run.take(draft);
    assert!(!run.has("survey"), "{:?}", run.open());
}

#[test]
fn a_survey_of_a_file_that_was_corrected_meanwhile_is_made_again() {
    let mut spec = spec(NetworkMode::SecondaryIp);
    let mut run = provision(&spec);
    run.settle("resolve", None);
    // Another step is stuck while the survey is under way.
    let refused = Evidence::Refused { code: "VolumeLimitExceeded".into(), message: "no".into() };
    run.settle("create_volume", Some(refused));
    assert!(matches!(run.state.status, Status::Stuck { .. }));
    spec.capacity.requirements.as_mut().unwrap().vcpus.min = 4;
    let mut draft = run.draft();
    draft.resume("ops".into(), Vec::new(), spec).unwrap();
    run.take(draft);
    // A look that is under way is given up for the one of the new file.
    assert_eq!(run.question().requirements.unwrap().vcpus.min, 4, "{:?}", run.state.status);
}

#[test]
fn the_history_names_the_pools_that_were_considered_and_those_that_were_not() {
    let spec = spec(NetworkMode::SecondaryIp);
    let mut run = provision(&spec);
    let mut events =
        vec![(Stamp { seq: Seq(1), at_ms: 0 }, OperationEvent::Started((*run.state.order).clone()))];
    let resolve = run.state.open_steps()[0].clone();
    events.push((
        Stamp { seq: Seq(2), at_ms: 0 },
        OperationEvent::StepIntended {
            step: resolve.intent.step(),
            attempt: 1,
            intent: (*resolve.intent).clone(),
            not_before_ms: 0,
            deadline_ms: resolve.deadline_ms,
        },
    ));
    let mut take = |run: &Run, led_to: Vec<OperationEvent>| {
        for event in led_to {
            let seq = Seq(events.len() as u64 + 1);
            events.push((Stamp { seq, at_ms: run.now_ms }, event));
        }
    };
    let led_to = run.settle("resolve", None);
    take(&run, led_to);
    let seen = Survey {
        unfit: BTreeMap::from([("burstable".to_owned(), 12)]),
        notes: vec!["prices in z are not known: no".to_owned()],
        ..match (run.pools(&[("m5.large", Market::Spot)]), too_expensive()) {
            (Evidence::Surveyed(pools), Evidence::Surveyed(dear)) => {
                Survey { rejected: dear.rejected, ..pools }
            }
            other => panic!("{other:?}"),
        }
    };
    // The same again after a round tells nothing new.
    for _ in 0..2 {
        let led_to = run.settle("survey", Some(Evidence::Surveyed(seen.clone())));
        take(&run, led_to);
        let led_to = run.settle("launch", Some(no_capacity()));
        take(&run, led_to);
    }
    let told = story(&OperationId::parse("db-1.2").unwrap(), &events).unwrap();
    let rejected: Vec<&str> = told.rejected.iter().map(|remark| remark.text.as_str()).collect();
    assert_eq!(
        rejected,
        [
            "m5.large spot: costs 0.9 an hour, at most 0.1 is paid",
            "types that are not as required: 12 burstable",
            "m5.large spot: InsufficientInstanceCapacity: none",
            "m5.large spot: InsufficientInstanceCapacity: none",
        ]
    );
    let remarks: Vec<&str> = told.remarks.iter().map(|remark| remark.text.as_str()).collect();
    assert_eq!(remarks, ["surveyed, in order: m5.large spot", "survey: prices in z are not known: no"]);
    // The state keeps the last survey only; the journal has all of them.
    let kept = run.state.steps.values().filter_map(|record| match &record.outcome {
        Some((Evidence::Surveyed(survey), _)) => Some(survey.pools.len()),
        _ => None,
    });
    assert_eq!(kept.collect::<Vec<_>>(), [0, 1]);
}
