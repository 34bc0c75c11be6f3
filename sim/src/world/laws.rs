//! Laws over random sequences of calls: nothing inconsistent, time only forwards, the seed decides.

use perennial_workers::port::{ImageRequest, InterfaceRequest, Tags, VolumeRequest};
use perennial_workflows::model::aws::{InstanceId, InterfaceId, Market, SnapshotId, VolumeId};
use proptest::prelude::*;

use super::settings::{RootAdoption, Settings, Span};
use super::{Notice, Placement, Reassignment, RunInstances, World};

/// One step of a random sequence. The numbers choose among the existing objects.
#[derive(Debug, Clone)]
enum Step {
    Wait(u32),
    Launch { zone: usize, spot: bool, interface: Option<usize>, token: u8 },
    Terminate(usize),
    Interrupt(usize, u32),
    CreateVolume { zone: usize, token: u8 },
    Attach(usize, usize, u8),
    Detach(usize),
    DeleteVolume(usize),
    Unmount(usize),
    Preserve(usize),
    ReplaceRoot(usize, usize),
    Snapshot(usize),
    DeleteSnapshot(usize),
    Register(usize, u8),
    CreateInterface { zone: usize, token: u8 },
    DeleteInterface(usize),
    AttachInterface(usize, usize),
    Assign(usize, usize),
    AssignNew(usize),
    Unassign(usize),
    Write(usize, u8),
}

fn step() -> impl Strategy<Value = Step> {
    let n = 0_usize..64;
    prop_oneof![
        6 => (0_u32..40_000).prop_map(Step::Wait),
        4 => (0_usize..3, any::<bool>(), prop::option::of(n.clone()), any::<u8>())
            .prop_map(|(zone, spot, interface, token)| Step::Launch { zone, spot, interface, token }),
        2 => n.clone().prop_map(Step::Terminate),
        2 => (n.clone(), 0_u32..150_000).prop_map(|(i, lead)| Step::Interrupt(i, lead)),
        2 => (0_usize..3, any::<u8>()).prop_map(|(zone, token)| Step::CreateVolume { zone, token }),
        4 => (n.clone(), n.clone(), 0_u8..3).prop_map(|(v, i, d)| Step::Attach(v, i, d)),
        3 => n.clone().prop_map(Step::Detach),
        1 => n.clone().prop_map(Step::DeleteVolume),
        2 => n.clone().prop_map(Step::Unmount),
        1 => n.clone().prop_map(Step::Preserve),
        2 => (n.clone(), n.clone()).prop_map(|(i, v)| Step::ReplaceRoot(i, v)),
        2 => n.clone().prop_map(Step::Snapshot),
        1 => n.clone().prop_map(Step::DeleteSnapshot),
        1 => (n.clone(), any::<u8>()).prop_map(|(s, name)| Step::Register(s, name)),
        2 => (0_usize..3, any::<u8>()).prop_map(|(zone, token)| Step::CreateInterface { zone, token }),
        1 => n.clone().prop_map(Step::DeleteInterface),
        2 => (n.clone(), n.clone()).prop_map(|(e, i)| Step::AttachInterface(e, i)),
        2 => (n.clone(), n.clone()).prop_map(|(e, a)| Step::Assign(e, a)),
        1 => n.clone().prop_map(Step::AssignNew),
        1 => n.clone().prop_map(Step::Unassign),
        3 => (n, any::<u8>()).prop_map(|(i, record)| Step::Write(i, record)),
    ]
}

fn pick<T: Clone>(all: impl Iterator<Item = T>, n: usize) -> Option<T> {
    let all: Vec<T> = all.collect();
    (!all.is_empty()).then(|| all[n % all.len()].clone())
}

fn instance(world: &World, n: usize) -> Option<InstanceId> {
    pick(world.instances.keys().cloned(), n)
}

fn volume(world: &World, n: usize) -> Option<VolumeId> {
    pick(world.volumes.keys().cloned(), n)
}

fn interface(world: &World, n: usize) -> Option<InterfaceId> {
    pick(world.interfaces.keys().cloned(), n)
}

fn snapshot(world: &World, n: usize) -> Option<SnapshotId> {
    pick(world.snapshots.keys().cloned(), n)
}

/// Does a step as far as it can be done; a refusal is a fine answer.
fn take(world: &mut World, now: &mut u64, step: &Step) -> Option<()> {
    let zones = world.zones();
    match step {
        Step::Wait(ms) => {
            *now += u64::from(*ms);
            world.advance(*now);
        }
        Step::Launch { zone, spot, interface, token } => {
            launch(world, *now, &zones[*zone], *spot, *interface, *token)?;
        }
        Step::Terminate(n) => {
            let id = instance(world, *n)?;
            world.terminate_instances(*now, &id).ok()?;
        }
        Step::Interrupt(n, lead) => {
            let id = instance(world, *n)?;
            let lead = std::time::Duration::from_millis(u64::from(*lead));
            world.interrupt(*now, &id, Notice { lead, ..Notice::default() }).ok()?;
        }
        Step::CreateVolume { zone, token } => create_volume(world, *now, &zones[*zone], *token)?,
        Step::Attach(v, i, device) => {
            let (v, i) = (volume(world, *v)?, instance(world, *i)?);
            world.attach_volume(*now, &v, &i, &format!("/dev/sd{device}")).ok()?;
        }
        Step::Detach(v) => {
            let v = volume(world, *v)?;
            world.detach_volume(*now, &v, None).ok()?;
        }
        Step::DeleteVolume(v) => {
            let v = volume(world, *v)?;
            world.delete_volume(*now, &v).ok()?;
        }
        Step::Unmount(v) => unmount(world, *now, *v)?,
        Step::Preserve(i) => {
            let i = instance(world, *i)?;
            world.modify_delete_on_termination(*now, &i, &[("/dev/xvda".to_owned(), false)]).ok()?;
        }
        Step::ReplaceRoot(i, v) => {
            let (i, v) = (instance(world, *i)?, volume(world, *v)?);
            world.replace_root(*now, &i, &v, "", &Tags::new()).ok()?;
        }
        Step::Snapshot(v) => {
            let v = volume(world, *v)?;
            world.create_snapshot(*now, &v, &Tags::new()).ok()?;
        }
        Step::DeleteSnapshot(s) => {
            let s = snapshot(world, *s)?;
            world.delete_snapshot(*now, &s).ok()?;
        }
        Step::Register(s, name) => register(world, *now, *s, *name)?,
        Step::CreateInterface { zone, token } => create_interface(world, *now, &zones[*zone], *token)?,
        Step::DeleteInterface(e) => {
            let e = interface(world, *e)?;
            world.delete_interface(*now, &e).ok()?;
        }
        Step::AttachInterface(e, i) => {
            let (e, i) = (interface(world, *e)?, instance(world, *i)?);
            world.attach_interface(*now, &e, &i, 1).ok()?;
        }
        Step::Assign(e, a) => {
            let e = interface(world, *e)?;
            let address = pick(world.addresses.keys().copied(), *a)?;
            world.assign_private_ip(*now, &e, Some(address), Reassignment::Allowed).ok()?;
        }
        Step::AssignNew(e) => {
            let e = interface(world, *e)?;
            world.assign_private_ip(*now, &e, None, Reassignment::Refused).ok()?;
        }
        Step::Unassign(a) => {
            let (address, holder) = pick(world.addresses.clone().into_iter(), *a)?;
            world.unassign_private_ip(*now, &holder, address).ok()?;
        }
        Step::Write(i, record) => {
            let i = instance(world, *i)?;
            world.write(*now, &i, "/dev/xvda", &record.to_string()).ok()?;
        }
    }
    Some(())
}

fn launch(
    world: &mut World,
    now: u64,
    zone: &str,
    spot: bool,
    given: Option<usize>,
    token: u8,
) -> Option<()> {
    let placement = match given.and_then(|n| interface(world, n)) {
        Some(id) => Placement::Existing(id),
        None => {
            let subnet = world.subnet_in(zone);
            Placement::New { subnet, groups: vec![], private_ip: None }
        }
    };
    let image = pick(world.images.keys().cloned(), usize::from(token))?;
    let request = RunInstances {
        client_token: format!("run-{token}"),
        image,
        instance_type: "m6i.large".to_owned(),
        market: if spot { Market::Spot } else { Market::OnDemand },
        price_max: None,
        zone: None,
        placement,
        devices: vec![],
        key_name: None,
        instance_profile: None,
        user_data: None,
        tags: super::LaunchTags::default(),
        more: super::LaunchExtras::default(),
    };
    world.run_instances(now, &request).ok()?;
    Some(())
}

fn create_volume(world: &mut World, now: u64, zone: &str, token: u8) -> Option<()> {
    let request = VolumeRequest {
        client_token: format!("vol-{token}"),
        zone: zone.to_owned(),
        size_gib: 20,
        volume_type: "gp3".to_owned(),
        iops: None,
        throughput: None,
        encrypted: false,
        kms_key: None,
        snapshot: snapshot(world, usize::from(token)),
        tags: Tags::new(),
    };
    world.create_volume(now, &request).ok()?;
    Some(())
}

fn unmount(world: &mut World, now: u64, v: usize) -> Option<()> {
    let v = volume(world, v)?;
    let holder = world.volumes[&v].attachment.as_ref()?.instance.clone();
    world.unmount(now, &holder, &v).ok()
}

fn register(world: &mut World, now: u64, s: usize, name: u8) -> Option<()> {
    let traits = world.image(&world.default_image())?.traits.clone();
    let root_snapshot = snapshot(world, s)?;
    let request = ImageRequest {
        name: format!("image-{name}"),
        root_snapshot,
        traits,
        uefi_data: None,
        tags: Tags::new(),
    };
    world.register_image(now, &request).ok()?;
    Some(())
}

fn create_interface(world: &mut World, now: u64, zone: &str, token: u8) -> Option<()> {
    let request = InterfaceRequest {
        client_token: format!("eni-{token}"),
        subnet: world.subnet_in(zone),
        groups: vec![],
        private_ip: None,
        tags: Tags::new(),
    };
    world.create_interface(now, &request).ok()?;
    Some(())
}

fn adoption() -> impl Strategy<Value = RootAdoption> {
    prop_oneof![
        3 => Just(RootAdoption::Supported),
        1 => Just(RootAdoption::FailsEachTime),
        1 => Just(RootAdoption::FailedDetached),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_calls_breaks_the_world(
        seed: u64, slow in any::<bool>(), root_adoption in adoption(), steps in prop::collection::vec(step(), 1..120),
    ) {
        let unknown_for = if slow { Span::ms(0, 5_000) } else { Span::ZERO };
        let mut settings = if slow { Settings::calm(seed) } else { Settings::instant(seed) };
        settings.unknown_for = unknown_for;
        settings.stale_for = unknown_for;
        settings.root_adoption = root_adoption;
        let mut world = World::new(settings.clone(), 1_000_000);
        let mut again = World::new(settings, 1_000_000);
        let (mut now, mut now_again) = (1_000_000, 1_000_000);
        for (n, step) in steps.iter().enumerate() {
            let before = world.now_ms();
            take(&mut world, &mut now, step);
            prop_assert!(world.now_ms() >= before);
            prop_assert!(world.next_due_ms().is_none_or(|due| due >= world.now_ms()));
            prop_assert_eq!(world.check_invariants(), Vec::<String>::new(), "after {:?}", step);
            take(&mut again, &mut now_again, step);
            if n % 16 == 7 {
                // Written and read back, it goes on like the other.
                again = serde_json::from_str(&serde_json::to_string(&again).unwrap()).unwrap();
            }
        }
        prop_assert_eq!(serde_json::to_value(&world).unwrap(), serde_json::to_value(&again).unwrap());
        prop_assert_eq!(world.dump(), again.dump());
        prop_assert_eq!(world.take_events(), again.take_events());
    }

    #[test]
    fn nothing_survives_its_termination_by_accident(seed: u64, steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::new(Settings::calm(seed), 0);
        let mut now = 0;
        for step in &steps {
            take(&mut world, &mut now, step);
        }
        let ids: Vec<_> = world.instances.keys().cloned().collect();
        for id in &ids {
            prop_assert!(world.terminate_instances(now, id).is_ok());
        }
        let doomed: Vec<_> = ids.iter().flat_map(|id| world.would_be_deleted_with(id)).collect();
        now += 200_000;
        world.advance(now);
        for id in doomed {
            let volume = world.volumes.keys().any(|volume| volume.as_str() == id);
            let interface = world.interfaces.keys().any(|interface| interface.as_str() == id);
            prop_assert!(!volume && !interface, "{id} is still there");
        }
        prop_assert!(world.volumes.values().all(|volume| volume.attachment.is_none()));
        prop_assert!(world.interfaces.values().all(|interface| interface.attachment.is_none()));
    }
}
