use std::sync::atomic::AtomicU64;

use perennial_workers::port::LaunchNetwork;
use perennial_workers::port::error::{Class, Effect};
use perennial_workflows::model::aws::{InstanceState, Market};

use super::*;
use crate::faults::{Target, When};
use crate::world::Notice;

const EPOCH_MS: u64 = 1_789_374_667_000;

fn region(settings: Settings) -> SimRegion {
    SimRegion::new(settings, Clock::scaled(EPOCH_MS, 1.0))
}

fn request(region: &SimRegion, token: &str) -> LaunchRequest {
    let (image, zone, subnet) = region.with(|world, _| {
        let zone = world.zones()[0].clone();
        let subnet = world.subnet_in(&zone);
        (world.default_image(), zone, subnet)
    });
    LaunchRequest {
        client_token: token.to_owned(),
        image,
        instance_type: "m6i.large".to_owned(),
        market: Market::Spot,
        price_max: None,
        zone,
        network: LaunchNetwork::New { subnet, groups: vec![] },
        root: None,
        volumes: Vec::new(),
        suppress: Vec::new(),
        key_name: None,
        instance_profile: None,
        metadata: None,
        template: None,
        user_data: None,
        tags: Tags::new(),
    }
}

async fn look(region: &SimRegion, id: &InstanceId) -> InstanceView {
    region.instances(&Select::Ids(vec![id.clone()])).await.unwrap().remove(0)
}

#[tokio::test(start_paused = true)]
async fn a_call_takes_time_and_so_does_what_it_starts() {
    let region = region(Settings::calm(1));
    let request = request(&region, "a");
    let begun = region.clock().now_ms();
    let launched = region.run_instance(&request).await.unwrap();
    let took = region.clock().now_ms() - begun;
    assert!((1_500..=2_510).contains(&took), "{took}");
    assert_eq!(launched.state, InstanceState::Pending);
    region.clock().sleep(Duration::from_secs(10)).await;
    assert_eq!(look(&region, &launched.id).await.state, InstanceState::Running);
    assert_eq!(region.identity().await.unwrap(), "111122223333");
    let actions: Vec<_> = region.calls().into_iter().map(|call| (call.action, call.answer)).collect();
    assert_eq!(
        actions,
        [Action::RunInstances, Action::DescribeInstances, Action::GetCallerIdentity].map(|a| (a, Ok(())))
    );
}

#[tokio::test(start_paused = true)]
async fn a_fault_strikes_before_or_after_the_effect() {
    let rows = [
        (Fault::Before("InternalError".to_owned()), 0, "InternalError"),
        (Fault::After("InternalError".to_owned()), 1, "InternalError"),
        (Fault::LostRequest, 0, ""),
        (Fault::LostReply, 1, ""),
    ];
    for (fault, instances, code) in rows {
        let region = region(Settings::calm(1));
        region.inject(Rule::next(Action::RunInstances, fault.clone()));
        let request = request(&region, "a");
        let error = region.run_instance(&request).await.unwrap_err();
        assert_eq!(
            (error.code.as_str(), error.class, error.effect),
            (code, Class::Transient, Effect::Unknown)
        );
        assert_eq!(region.with(|world, _| world.all_instances().count()), instances, "{fault:?}");
        region.run_instance(&request).await.unwrap();
        assert_eq!(region.with(|world, _| world.all_instances().count()), 1, "{fault:?}: the token holds");
        assert_eq!(region.calls()[0].answer, Err(code.to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn trouble_ends_when_it_is_told_to() {
    let region = region(Settings::calm(1));
    region.inject(Rule {
        target: Target::Looks,
        when: When::Always,
        fault: Fault::Before("RequestLimitExceeded".to_owned()),
    });
    let all = Select::tagged(Tags::new());
    assert_eq!(region.volumes(&all).await.unwrap_err().class, Class::Throttled);
    region.clear_faults();
    assert!(region.volumes(&all).await.unwrap().is_empty());
    region.inject(Rule::next(Action::DescribeVolumes, Fault::Delay(Duration::from_secs(60))));
    let begun = region.clock().now_ms();
    region.volumes(&all).await.unwrap();
    assert!(region.clock().now_ms() - begun >= 60_000);
}

#[tokio::test(start_paused = true)]
async fn a_process_can_die_at_every_point_of_a_call() {
    for (phase, instances) in [(Phase::Before, 0), (Phase::After, 1)] {
        let region = region(Settings::calm(1));
        let request = request(&region, "a");
        region.on_call(Some(Arc::new(move |point: &CallPoint| {
            if point.index == 0 && point.phase == phase { CallVerdict::Kill } else { CallVerdict::Go }
        })));
        let process = region.connect();
        tokio::select! {
            biased;
            answer = process.run_instance(&request) => panic!("a dead process was answered: {answer:?}"),
            () = process.died() => {}
        }
        let late = tokio::time::timeout(Duration::from_secs(60), process.run_instance(&request)).await;
        assert!(late.is_err(), "a dead process calls no more");
        assert_eq!(region.with(|world, _| world.all_instances().count()), instances, "{phase:?}");
        region.connect().run_instance(&request).await.unwrap();
        assert_eq!(region.with(|world, _| world.all_instances().count()), 1, "{phase:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_under_way_when_its_process_dies_has_no_effect() {
    let region = region(Settings::calm(1));
    let request = request(&region, "a");
    let process = region.connect();
    let call = tokio::time::timeout(Duration::from_secs(60), process.run_instance(&request));
    let death = async {
        region.clock().sleep(Duration::from_millis(100)).await;
        process.kill();
    };
    let (answer, ()) = tokio::join!(call, death);
    assert!(answer.is_err());
    assert_eq!(region.with(|world, _| world.all_instances().count()), 0);
}

#[tokio::test(start_paused = true)]
async fn a_single_call_can_hang_while_the_others_go_on() {
    let region = region(Settings::calm(1));
    region.on_call(Some(Arc::new(|point: &CallPoint| match point.action {
        Action::RunInstances => CallVerdict::Hang,
        _ => CallVerdict::Go,
    })));
    let request = request(&region, "a");
    let hung = tokio::time::timeout(Duration::from_secs(600), region.run_instance(&request)).await;
    assert!(hung.is_err() && !region.is_dead());
    assert!(region.identity().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn points_are_counted_over_all_connections() {
    let region = region(Settings::calm(1));
    let seen = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&seen);
    region.on_call(Some(Arc::new(move |_: &CallPoint| {
        counter.fetch_add(1, Ordering::SeqCst);
        CallVerdict::Go
    })));
    region.identity().await.unwrap();
    region.connect().identity().await.unwrap();
    assert_eq!((region.call_count(), seen.load(Ordering::SeqCst)), (2, 4));
}

#[tokio::test(start_paused = true)]
async fn events_come_at_their_time_although_nobody_calls() {
    let region = region(Settings::calm(1));
    let (sender, mut events) = mpsc::channel(16);
    let running = tokio::spawn({
        let region = region.clone();
        async move { region.run(sender).await }
    });
    let request = request(&region, "a");
    let id = region.run_instance(&request).await.unwrap().id;
    region.clock().sleep(Duration::from_secs(10)).await;
    region.with(|world, now| world.interrupt(now, &id, Notice::default())).unwrap();
    let mut seen = Vec::new();
    for _ in 0..5 {
        let event: serde_json::Value = serde_json::from_str(&events.recv().await.unwrap()).unwrap();
        seen.push((event["detail-type"].as_str().unwrap().to_owned(), region.clock().now_ms()));
    }
    let warned = seen[2].1;
    assert!(seen[2].0.contains("Interruption Warning"));
    assert_eq!(seen[3].1 - warned, 120_000, "{seen:?}");
    assert!(seen[4].1 > seen[3].1);
    drop(events);
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_checks_and_launches_nothing() {
    let region = region(Settings::calm(1));
    let mut request = request(&region, "a");
    region.may_run_instances(&request).await.unwrap();
    request.image = ImageId::parse("ami-0ff").unwrap();
    assert_eq!(region.may_run_instances(&request).await.unwrap_err().code, "InvalidAMIID.NotFound");
    assert_eq!(region.with(|world, _| world.all_instances().count()), 0);
}
