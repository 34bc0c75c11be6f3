//! [`Ec2`]: the port `Cloud` over `aws-sdk-ec2`.
//!
//! Three layers, top to bottom: one short method per call, the requests and selections as pure functions, the
//! errors. The views are in `ec2_views`.
//!
//! # How requests are made
//! - Looks use filters, never id lists (one unknown id would fail the whole call), at most
//!   [`FILTER_VALUES_MAX`] values each, and read every page. What comes back is checked against the selection
//!   once more, because some endpoints ignore filters they do not know.
//! - Tag values are matched literally: EC2's wildcards are escaped.
//! - A launch names its zone in `Placement` *and* describes its primary interface in `NetworkInterfaces[0]`;
//!   subnet, groups and addresses never stand at the top level, where EC2 refuses them beside
//!   `NetworkInterfaces`. EC2 accepts the zone beside an interface or subnet of the same zone, and it makes
//!   the client token's scope (the zone) explicit.
//! - The network interface is tagged at launch only when the launch creates it, the spot request only on the
//!   spot market.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_ec2::config::{
    ConfigBag, Intercept, ProvideCredentials, RuntimeComponents, SharedCredentialsProvider,
};
use aws_sdk_ec2::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::operation::create_network_interface::builders::CreateNetworkInterfaceInputBuilder;
use aws_sdk_ec2::operation::create_replace_root_volume_task::builders::CreateReplaceRootVolumeTaskInputBuilder;
use aws_sdk_ec2::operation::create_volume::builders::CreateVolumeInputBuilder;
use aws_sdk_ec2::operation::modify_instance_attribute::builders::ModifyInstanceAttributeInputBuilder;
use aws_sdk_ec2::operation::modify_network_interface_attribute::builders::ModifyNetworkInterfaceAttributeInputBuilder;
use aws_sdk_ec2::operation::register_image::builders::RegisterImageInputBuilder;
use aws_sdk_ec2::operation::run_instances::builders::RunInstancesInputBuilder;
use aws_sdk_ec2::types::{
    BlockDeviceMapping, EbsBlockDevice, EbsInstanceBlockDeviceSpecification, Filter,
    IamInstanceProfileSpecification, InstanceBlockDeviceMappingSpecification, InstanceInterruptionBehavior,
    InstanceMarketOptionsRequest, InstanceMetadataOptionsRequest, InstanceNetworkInterfaceSpecification,
    InstanceSpecification, LaunchTemplateSpecification, MarketType, NetworkInterfaceAttachmentChanges,
    Placement, ResourceType, SpotInstanceType, SpotMarketOptions, Tag, TagSpecification,
};
use perennial_workflows::model::aws::{
    AllocationId, AttachmentId, GroupId, ImageId, InstanceId, InstanceState, InterfaceId, Market, RootTaskId,
    SnapshotId, SpotRequestId, SubnetId, VolumeId,
};
use perennial_workflows::model::launch_template::LaunchTemplate;
use perennial_workflows::model::metadata::MetadataOptions;
use perennial_workflows::model::survey::TypeFacts;
use perennial_workflows::step::intent::LaunchVolume;
use tokio::time::Instant;

use super::ec2_views::{self as views, Missing};
use super::settings::{CALL_MAX, bounded_by, no_retries, no_stall_guard};
use crate::port::error::{Action, Class, CloudError, in_words};
use crate::port::{
    Cloud, ElasticView, ImageRequest, ImageView, ImpairedView, InstanceView, InterfaceRequest, InterfaceView,
    LaunchNetwork, LaunchRequest, RootOverride, RootTaskView, Select, SnapshotView, SnapshotsRequest,
    SpotRequestView, SubnetView, Tags, Taking, ToldTime, TypeQuery, VolumeRequest, VolumeView, user_data,
};

/// The most values of one filter (EC2 API reference, Filter).
pub(super) const FILTER_VALUES_MAX: usize = 200;

/// The largest page every describe we make accepts, but for the two below (EC2 API reference, `MaxResults`).
const PAGE_SIZE: i32 = 1000;
/// DescribeVolumes gives at most 500 a page, whatever is asked.
const VOLUME_PAGE_SIZE: i32 = 500;
/// DescribeReplaceRootVolumeTasks refuses more than 50.
const ROOT_TASK_PAGE_SIZE: i32 = 50;

/// The most pages of one look: a thousand pages are far beyond any account's limits, so the endpoint is
/// broken.
const PAGES_MAX: usize = 1000;

/// EC2's answer to a dry run that would have been allowed.
const DRY_RUN_WOULD_SUCCEED: &str = "DryRunOperation";

/// The port `Cloud` over EC2, or over anything that speaks its protocol.
#[derive(Debug, Clone)]
pub struct Ec2 {
    pub(super) client: Client,
    credentials: Option<SharedCredentialsProvider>,
    pub(super) page_size: i32,
    /// What EC2's clock showed in its last answer.
    told: Arc<Mutex<Option<ToldTime>>>,
}

/// Reads the header `Date` of each answer.
#[derive(Debug)]
struct ReadsDate {
    told: Arc<Mutex<Option<ToldTime>>>,
}

impl Intercept for ReadsDate {
    fn name(&self) -> &'static str {
        "ReadsDate"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        // One that cannot be read tells nothing.
        if let Some(at_ms) = context.response().headers().get("date").and_then(http_date_ms) {
            let told = ToldTime { at_ms, heard: Instant::now() };
            *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
        }
        Ok(())
    }
}

/// A date such as `Sun, 29 Nov 2026 08:00:00 GMT` (RFC 9110), in milliseconds since the Unix epoch.
fn http_date_ms(date: &str) -> Option<u64> {
    let date = jiff::fmt::rfc2822::parse(date).ok()?;
    u64::try_from(date.timestamp().as_millisecond()).ok()
}

impl Ec2 {
    /// An adapter with region, credentials and endpoint from `config`; retries and time-outs are our own (see
    /// the parent module), whatever `config` says. Makes no call.
    #[must_use]
    pub fn new(config: &SdkConfig) -> Self {
        let told = Arc::new(Mutex::new(None));
        let settings = aws_sdk_ec2::config::Builder::from(config)
            .retry_config(no_retries())
            .timeout_config(bounded_by(CALL_MAX))
            .stalled_stream_protection(no_stall_guard())
            .interceptor(ReadsDate { told: Arc::clone(&told) })
            .build();
        Self {
            client: Client::from_conf(settings),
            told,
            credentials: config.credentials_provider(),
            page_size: PAGE_SIZE,
        }
    }

    /// The same adapter asking for smaller pages, for endpoints that answer large ones too slowly. EC2
    /// accepts 5 to 1000.
    #[must_use]
    pub fn with_page_size(self, page_size: u16) -> Self {
        Self { page_size: i32::from(page_size).clamp(5, PAGE_SIZE), ..self }
    }

    async fn described_images(
        &self,
        owner: Option<&str>,
        filters: Vec<Filter>,
    ) -> Result<Vec<ImageView>, CloudError> {
        let action = Action::DescribeImages;
        let (owner, filters) = (&owner, &filters);
        all_pages(action, move |token| async move {
            let page = self
                .client
                .describe_images()
                .set_owners(owner.map(|owner| vec![owner.to_owned()]))
                // A deprecated image still launches; without this EC2 hides those of others.
                .include_deprecated(true)
                .set_filters(Some(filters.clone()))
                .max_results(self.page_size)
                .set_next_token(token)
                .send()
                .await
                .map_err(failed(action))?;
            Ok((seen(action, page.images(), views::image)?, page.next_token))
        })
        .await
    }

    async fn described_instances(
        &self,
        select: &Select<InstanceId>,
        also: &[Filter],
    ) -> Result<Vec<InstanceView>, CloudError> {
        let action = Action::DescribeInstances;
        let mut found = Vec::new();
        for mut filters in filters("instance-id", select, InstanceId::as_str) {
            filters.extend_from_slice(also);
            let filters = &filters;
            let page = all_pages(action, move |token| async move {
                let page = self
                    .client
                    .describe_instances()
                    .set_filters(Some(filters.clone()))
                    .max_results(self.page_size)
                    .set_next_token(token)
                    .send()
                    .await
                    .map_err(failed(action))?;
                let instances = page.reservations().iter().flat_map(|reservation| reservation.instances());
                Ok((seen(action, instances, views::instance)?, page.next_token))
            });
            found.extend(page.await?);
        }
        found.retain(|view| selects(select, &view.id, &view.tags));
        Ok(found)
    }

    async fn described_spot_requests(
        &self,
        select: &Select<SpotRequestId>,
        also: &[Filter],
    ) -> Result<Vec<SpotRequestView>, CloudError> {
        let action = Action::DescribeSpotInstanceRequests;
        let mut found = Vec::new();
        for mut filters in filters("spot-instance-request-id", select, SpotRequestId::as_str) {
            filters.extend_from_slice(also);
            let filters = &filters;
            let page = all_pages(action, move |token| async move {
                let page = self
                    .client
                    .describe_spot_instance_requests()
                    .set_filters(Some(filters.clone()))
                    .max_results(self.page_size)
                    .set_next_token(token)
                    .send()
                    .await
                    .map_err(failed(action))?;
                let tagged = |request: &_| Ok((views::spot_request(request)?, views::tags(request.tags())));
                Ok((seen(action, page.spot_instance_requests(), tagged)?, page.next_token))
            });
            found.extend(page.await?);
        }
        found.retain(|(view, tags)| selects(select, &view.id, tags));
        Ok(found.into_iter().map(|(view, _)| view).collect())
    }
}

#[async_trait]
impl Cloud for Ec2 {
    fn told_time(&self) -> Option<ToldTime> {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn instances(&self, select: &Select<InstanceId>) -> Result<Vec<InstanceView>, CloudError> {
        self.described_instances(select, &[]).await
    }

    async fn instances_not_running(&self, ids: &[InstanceId]) -> Result<Vec<InstanceView>, CloudError> {
        let states = InstanceState::NOT_RUNNING.map(|state| state.to_string());
        let also = [filter("instance-state-name", states)];
        let mut found = self.described_instances(&Select::Ids(ids.to_vec()), &also).await?;
        // An endpoint that does not know the filter shows others too.
        found.retain(|view| view.state != InstanceState::Running);
        Ok(found)
    }

    async fn volumes(&self, select: &Select<VolumeId>) -> Result<Vec<VolumeView>, CloudError> {
        let action = Action::DescribeVolumes;
        let mut found = Vec::new();
        for filters in &filters("volume-id", select, VolumeId::as_str) {
            let page = all_pages(action, move |token| async move {
                let page = self
                    .client
                    .describe_volumes()
                    .set_filters(Some(filters.clone()))
                    .max_results(self.page_size.min(VOLUME_PAGE_SIZE))
                    .set_next_token(token)
                    .send()
                    .await
                    .map_err(failed(action))?;
                Ok((seen(action, page.volumes(), views::volume)?, page.next_token))
            });
            found.extend(page.await?);
        }
        found.retain(|view| selects(select, &view.id, &view.tags));
        Ok(found)
    }

    async fn interfaces(&self, select: &Select<InterfaceId>) -> Result<Vec<InterfaceView>, CloudError> {
        let action = Action::DescribeNetworkInterfaces;
        let mut found = Vec::new();
        for filters in &filters("network-interface-id", select, InterfaceId::as_str) {
            let page = all_pages(action, move |token| async move {
                let page = self
                    .client
                    .describe_network_interfaces()
                    .set_filters(Some(filters.clone()))
                    .max_results(self.page_size)
                    .set_next_token(token)
                    .send()
                    .await
                    .map_err(failed(action))?;
                Ok((seen(action, page.network_interfaces(), views::interface)?, page.next_token))
            });
            found.extend(page.await?);
        }
        found.retain(|view| selects(select, &view.id, &view.tags));
        Ok(found)
    }

    async fn interface_with(
        &self,
        subnet: &SubnetId,
        address: Ipv4Addr,
    ) -> Result<Option<InterfaceView>, CloudError> {
        let action = Action::DescribeNetworkInterfaces;
        let page = self
            .client
            .describe_network_interfaces()
            .filters(filter("subnet-id", [subnet.as_str().to_owned()]))
            .filters(filter("addresses.private-ip-address", [address.to_string()]))
            .send()
            .await
            .map_err(failed(action))?;
        let found = seen(action, page.network_interfaces(), views::interface)?;
        // An endpoint that does not know the filter shows others too.
        Ok(found.into_iter().find(|view| {
            view.subnet == *subnet && (view.primary_ip == address || view.secondary_ips.contains(&address))
        }))
    }

    async fn snapshots(&self, select: &Select<SnapshotId>) -> Result<Vec<SnapshotView>, CloudError> {
        let action = Action::DescribeSnapshots;
        let mut found = Vec::new();
        for filters in &filters("snapshot-id", select, SnapshotId::as_str) {
            let page = all_pages(action, move |token| async move {
                let page = self
                    .client
                    .describe_snapshots()
                    .owner_ids("self")
                    .set_filters(Some(filters.clone()))
                    .max_results(self.page_size)
                    .set_next_token(token)
                    .send()
                    .await
                    .map_err(failed(action))?;
                Ok((seen(action, page.snapshots(), views::snapshot)?, page.next_token))
            });
            found.extend(page.await?);
        }
        found.retain(|view| selects(select, &view.id, &view.tags));
        Ok(found)
    }

    async fn images(&self, select: &Select<ImageId>) -> Result<Vec<ImageView>, CloudError> {
        // By id an image may be anybody's; tags are only ours.
        let owner = match select {
            Select::Ids(_) => None,
            Select::Tagged(_) => Some("self"),
        };
        let mut found = Vec::new();
        for filters in filters("image-id", select, ImageId::as_str) {
            found.extend(self.described_images(owner, filters).await?);
        }
        found.retain(|view| selects(select, &view.id, &view.tags));
        Ok(found)
    }

    async fn image_named(&self, name: &str) -> Result<Option<ImageView>, CloudError> {
        let found = self.described_images(Some("self"), vec![filter("name", [literal(name)])]).await?;
        Ok(found.into_iter().find(|view| view.name == name))
    }

    async fn subnets(&self, ids: &[SubnetId]) -> Result<Vec<SubnetView>, CloudError> {
        let action = Action::DescribeSubnets;
        let select = &Select::Ids(ids.to_vec());
        let mut found = Vec::new();
        for filters in &filters("subnet-id", select, SubnetId::as_str) {
            let page = all_pages(action, move |token| async move {
                let page = self
                    .client
                    .describe_subnets()
                    .set_filters(Some(filters.clone()))
                    .max_results(self.page_size)
                    .set_next_token(token)
                    .send()
                    .await
                    .map_err(failed(action))?;
                Ok((seen(action, page.subnets(), views::subnet)?, page.next_token))
            });
            found.extend(page.await?);
        }
        found.retain(|view| ids.contains(&view.id));
        Ok(found)
    }

    async fn instance_types(&self, query: &TypeQuery) -> Result<Vec<TypeFacts>, CloudError> {
        self.described_types(query).await
    }

    async fn offered_types(&self, zone: &str) -> Result<BTreeSet<String>, CloudError> {
        self.offerings(zone).await
    }

    async fn spot_prices(
        &self,
        types: &[String],
        zone: &str,
        now_ms: u64,
    ) -> Result<BTreeMap<String, String>, CloudError> {
        self.priced(types, zone, now_ms).await
    }

    async fn placement_score(&self, types: &[String], zone: &str) -> Result<Option<u8>, CloudError> {
        self.scored(types, zone).await
    }

    async fn spot_requests(
        &self,
        select: &Select<SpotRequestId>,
    ) -> Result<Vec<SpotRequestView>, CloudError> {
        self.described_spot_requests(select, &[]).await
    }

    async fn doomed_spot_requests(&self, ids: &[SpotRequestId]) -> Result<Vec<SpotRequestView>, CloudError> {
        let begins = SpotRequestView::DOOMED.map(|begins| format!("{begins}*"));
        let doomed = filter("status-code", begins);
        let mut found = self.described_spot_requests(&Select::Ids(ids.to_vec()), &[doomed]).await?;
        // An endpoint that does not know the filter shows others too.
        found.retain(SpotRequestView::is_doomed);
        Ok(found)
    }

    async fn impaired(&self) -> Result<Vec<ImpairedView>, CloudError> {
        self.failing_checks().await
    }

    async fn root_tasks(&self, instance: &InstanceId) -> Result<Vec<RootTaskView>, CloudError> {
        let action = Action::DescribeReplaceRootVolumeTasks;
        let mut found: Vec<RootTaskView> = all_pages(action, move |token| async move {
            let page = self
                .client
                .describe_replace_root_volume_tasks()
                .filters(filter("instance-id", [instance.as_str().to_owned()]))
                .max_results(self.page_size.min(ROOT_TASK_PAGE_SIZE))
                .set_next_token(token)
                .send()
                .await
                .map_err(failed(action))?;
            Ok((seen(action, page.replace_root_volume_tasks(), views::root_task)?, page.next_token))
        })
        .await?;
        found.retain(|view| view.instance == *instance);
        Ok(found)
    }

    async fn uefi_data(&self, instance: &InstanceId) -> Result<Option<String>, CloudError> {
        let call = self.client.get_instance_uefi_data().instance_id(instance.as_str());
        let answer = call.send().await.map_err(failed(Action::GetInstanceUefiData))?;
        Ok(answer.uefi_data.filter(|data| !data.is_empty()))
    }

    async fn run_instance(&self, request: &LaunchRequest) -> Result<InstanceView, CloudError> {
        let action = Action::RunInstances;
        let answer = launch_input(request).send_with(&self.client).await.map_err(failed(action))?;
        let instance = answer
            .instances()
            .first()
            .ok_or_else(|| CloudError::lost(action, "the answer names no instance"))?;
        views::instance(instance).map_err(incomplete(action))
    }

    async fn terminate_instance(&self, id: &InstanceId) -> Result<(), CloudError> {
        let call = self.client.terminate_instances().instance_ids(id.as_str());
        call.send().await.map(drop).map_err(failed(Action::TerminateInstances))
    }

    async fn force_terminate_instance(&self, id: &InstanceId) -> Result<(), CloudError> {
        let call = self.client.terminate_instances().instance_ids(id.as_str());
        let call = call.force(true).skip_os_shutdown(true);
        call.send().await.map(drop).map_err(failed(Action::TerminateInstances))
    }

    async fn cancel_spot_request(&self, id: &SpotRequestId) -> Result<(), CloudError> {
        let call = self.client.cancel_spot_instance_requests().spot_instance_request_ids(id.as_str());
        call.send().await.map(drop).map_err(failed(Action::CancelSpotInstanceRequests))
    }

    async fn preserve_volumes(&self, id: &InstanceId, devices: &[String]) -> Result<(), CloudError> {
        if devices.is_empty() {
            return Ok(()); // EC2 would refuse a modification of nothing.
        }
        let call = volumes_preserved_input(id, devices).send_with(&self.client);
        call.await.map(drop).map_err(failed(Action::ModifyInstanceAttribute))
    }

    async fn preserve_interface(
        &self,
        id: &InterfaceId,
        attachment: &AttachmentId,
    ) -> Result<(), CloudError> {
        let call = interface_preserved_input(id, attachment).send_with(&self.client);
        call.await.map(drop).map_err(failed(Action::ModifyNetworkInterfaceAttribute))
    }

    async fn create_volume(&self, request: &VolumeRequest) -> Result<VolumeId, CloudError> {
        let action = Action::CreateVolume;
        let answer = volume_input(request).send_with(&self.client).await.map_err(failed(action))?;
        views::required(answer.volume_id(), "a volume without id", VolumeId::parse)
            .map_err(incomplete(action))
    }

    async fn copy_volume(
        &self,
        source: &VolumeId,
        client_token: &str,
        tags: &Tags,
    ) -> Result<VolumeId, CloudError> {
        let action = Action::CopyVolumes;
        let answer = self
            .client
            .copy_volumes()
            .source_volume_id(source.as_str())
            .client_token(client_token)
            .set_tag_specifications(tagged([ResourceType::Volume], tags))
            .send()
            .await
            .map_err(failed(action))?;
        let copy = answer.volumes().first().and_then(|volume| volume.volume_id());
        views::required(copy, "a copy without id", VolumeId::parse).map_err(incomplete(action))
    }

    async fn delete_volume(&self, id: &VolumeId) -> Result<(), CloudError> {
        let call = self.client.delete_volume().volume_id(id.as_str());
        call.send().await.map(drop).map_err(failed(Action::DeleteVolume))
    }

    async fn attach_volume(
        &self,
        id: &VolumeId,
        instance: &InstanceId,
        device: &str,
    ) -> Result<(), CloudError> {
        let call =
            self.client.attach_volume().volume_id(id.as_str()).instance_id(instance.as_str()).device(device);
        call.send().await.map(drop).map_err(failed(Action::AttachVolume))
    }

    async fn detach_volume(&self, id: &VolumeId, instance: &InstanceId) -> Result<(), CloudError> {
        let call = self.client.detach_volume().volume_id(id.as_str()).instance_id(instance.as_str());
        call.send().await.map(drop).map_err(failed(Action::DetachVolume))
    }

    async fn force_detach_volume(&self, id: &VolumeId, instance: &InstanceId) -> Result<(), CloudError> {
        let call = self.client.detach_volume().volume_id(id.as_str()).instance_id(instance.as_str());
        call.force(true).send().await.map(drop).map_err(failed(Action::DetachVolume))
    }

    async fn replace_root(
        &self,
        instance: &InstanceId,
        volume: &VolumeId,
        client_token: &str,
        tags: &Tags,
    ) -> Result<RootTaskId, CloudError> {
        let action = Action::CreateReplaceRootVolumeTask;
        let call = replace_root_input(instance, volume, client_token, tags).send_with(&self.client);
        let answer = call.await.map_err(failed(action))?;
        let task = answer.replace_root_volume_task().and_then(|task| task.replace_root_volume_task_id());
        views::required(task, "a root task without id", RootTaskId::parse).map_err(incomplete(action))
    }

    async fn create_snapshot(
        &self,
        volume: &VolumeId,
        description: &str,
        tags: &Tags,
    ) -> Result<SnapshotId, CloudError> {
        let action = Action::CreateSnapshot;
        let answer = self
            .client
            .create_snapshot()
            .volume_id(volume.as_str())
            .description(description)
            .set_tag_specifications(tagged([ResourceType::Snapshot], tags))
            .send()
            .await
            .map_err(failed(action))?;
        views::required(answer.snapshot_id(), "a snapshot without id", SnapshotId::parse)
            .map_err(incomplete(action))
    }

    async fn create_snapshots(&self, request: &SnapshotsRequest) -> Result<Vec<SnapshotId>, CloudError> {
        let action = Action::CreateSnapshots;
        let volumes = InstanceSpecification::builder()
            .instance_id(request.instance.as_str())
            .exclude_boot_volume(request.without_root)
            .set_exclude_data_volume_ids(
                (!request.without.is_empty())
                    .then(|| request.without.iter().map(|volume| volume.as_str().to_owned()).collect()),
            )
            .build();
        let answer = self
            .client
            .create_snapshots()
            .instance_specification(volumes)
            .description(&request.description)
            .set_tag_specifications(tagged([ResourceType::Snapshot], &request.tags))
            .send()
            .await
            .map_err(failed(action))?;
        answer
            .snapshots()
            .iter()
            .map(|made| views::required(made.snapshot_id(), "a snapshot without id", SnapshotId::parse))
            .collect::<Result<_, _>>()
            .map_err(incomplete(action))
    }

    async fn delete_snapshot(&self, id: &SnapshotId) -> Result<(), CloudError> {
        let call = self.client.delete_snapshot().snapshot_id(id.as_str());
        call.send().await.map(drop).map_err(failed(Action::DeleteSnapshot))
    }

    async fn register_image(&self, request: &ImageRequest) -> Result<ImageId, CloudError> {
        let action = Action::RegisterImage;
        let answer = image_input(request).send_with(&self.client).await.map_err(failed(action))?;
        views::required(answer.image_id(), "an image without id", ImageId::parse).map_err(incomplete(action))
    }

    async fn deregister_image(&self, id: &ImageId) -> Result<(), CloudError> {
        let call = self.client.deregister_image().image_id(id.as_str());
        call.send().await.map(drop).map_err(failed(Action::DeregisterImage))
    }

    async fn create_interface(&self, request: &InterfaceRequest) -> Result<InterfaceView, CloudError> {
        let action = Action::CreateNetworkInterface;
        let answer = interface_input(request).send_with(&self.client).await.map_err(failed(action))?;
        let interface = answer
            .network_interface()
            .ok_or_else(|| CloudError::lost(action, "the answer names no interface"))?;
        views::interface(interface).map_err(incomplete(action))
    }

    async fn delete_interface(&self, id: &InterfaceId) -> Result<(), CloudError> {
        let call = self.client.delete_network_interface().network_interface_id(id.as_str());
        call.send().await.map(drop).map_err(failed(Action::DeleteNetworkInterface))
    }

    async fn set_interface_groups(&self, id: &InterfaceId, groups: &[GroupId]) -> Result<(), CloudError> {
        let call = interface_groups_input(id, groups).send_with(&self.client);
        call.await.map(drop).map_err(failed(Action::ModifyNetworkInterfaceAttribute))
    }

    async fn attach_interface(
        &self,
        id: &InterfaceId,
        instance: &InstanceId,
        device_index: u32,
    ) -> Result<(), CloudError> {
        let call = self
            .client
            .attach_network_interface()
            .network_interface_id(id.as_str())
            .instance_id(instance.as_str())
            .device_index(i32::try_from(device_index).unwrap_or(i32::MAX));
        call.send().await.map(drop).map_err(failed(Action::AttachNetworkInterface))
    }

    async fn detach_interface(&self, attachment: &AttachmentId) -> Result<(), CloudError> {
        let call = self.client.detach_network_interface().attachment_id(attachment.as_str());
        call.send().await.map(drop).map_err(failed(Action::DetachNetworkInterface))
    }

    async fn assign_private_ip(
        &self,
        id: &InterfaceId,
        address: Option<Ipv4Addr>,
        taking: Taking,
    ) -> Result<(), CloudError> {
        let call = self.client.assign_private_ip_addresses().network_interface_id(id.as_str());
        let call = match address {
            Some(address) => {
                call.private_ip_addresses(address.to_string()).allow_reassignment(taking == Taking::FromOwn)
            }
            None => call.secondary_private_ip_address_count(1),
        };
        call.send().await.map(drop).map_err(failed(Action::AssignPrivateIpAddresses))
    }

    async fn grow_volume(&self, id: &VolumeId, size_gib: u32) -> Result<(), CloudError> {
        let call = self.client.modify_volume().volume_id(id.as_str()).size(int(size_gib));
        call.send().await.map(drop).map_err(failed(Action::ModifyVolume))
    }

    async fn elastic_address(&self, id: &AllocationId) -> Result<Option<ElasticView>, CloudError> {
        let action = Action::DescribeAddresses;
        let page = self
            .client
            .describe_addresses()
            .filters(filter("allocation-id", [id.as_str().to_owned()]))
            .send()
            .await
            .map_err(failed(action))?;
        let found = seen(action, page.addresses(), views::elastic)?;
        Ok(found.into_iter().find(|view| view.allocation == *id))
    }

    async fn associate_address(
        &self,
        id: &AllocationId,
        interface: &InterfaceId,
        private_ip: Option<Ipv4Addr>,
        taking: Taking,
    ) -> Result<(), CloudError> {
        let call = self
            .client
            .associate_address()
            .allocation_id(id.as_str())
            .network_interface_id(interface.as_str())
            .set_private_ip_address(private_ip.map(|address| address.to_string()))
            .allow_reassociation(taking == Taking::FromOwn);
        call.send().await.map(drop).map_err(failed(Action::AssociateAddress))
    }

    async fn unassign_private_ip(&self, id: &InterfaceId, address: Ipv4Addr) -> Result<(), CloudError> {
        let call = self
            .client
            .unassign_private_ip_addresses()
            .network_interface_id(id.as_str())
            .private_ip_addresses(address.to_string());
        call.send().await.map(drop).map_err(failed(Action::UnassignPrivateIpAddresses))
    }

    async fn may_run_instances(&self, request: &LaunchRequest) -> Result<(), CloudError> {
        let action = Action::RunInstances;
        match launch_input(request).dry_run(true).send_with(&self.client).await {
            Err(error) if error.code() == Some(DRY_RUN_WOULD_SUCCEED) => Ok(()),
            Err(error) => Err(failed(action)(error)),
            // EC2 never answers a dry run with success; some emulators ignore the flag.
            Ok(answer) => {
                let launched: Vec<_> = answer.instances().iter().filter_map(|i| i.instance_id()).collect();
                let message =
                    format!("the endpoint ignores DryRun and launched {}: terminate it", launched.join(", "));
                Err(CloudError::coded(action, "DryRunIgnored", message))
            }
        }
    }

    /// The account id that the credentials carry (those of roles do), else the owner of any instance in sight
    /// (always the caller's account), else an empty text: the SDK of the service that would always know (STS)
    /// is not among our dependencies.
    async fn identity(&self) -> Result<String, CloudError> {
        let action = Action::GetCallerIdentity;
        if let Some(provider) = &self.credentials {
            let credentials = provider
                .provide_credentials()
                .await
                .map_err(|error| CloudError::coded(action, "AuthFailure", in_words(&error)))?;
            if let Some(account) = credentials.account_id() {
                return Ok(account.as_str().to_owned());
            }
        }
        let answer = self.client.describe_instances().max_results(5).send().await.map_err(failed(action))?;
        let owner = answer.reservations().first().and_then(|reservation| reservation.owner_id());
        Ok(owner.unwrap_or_default().to_owned())
    }
}

fn launch_input(request: &LaunchRequest) -> RunInstancesInputBuilder {
    let mut created = vec![ResourceType::Instance, ResourceType::Volume];
    let primary = InstanceNetworkInterfaceSpecification::builder().device_index(0);
    let primary = match &request.network {
        LaunchNetwork::Existing(interface) => primary.network_interface_id(interface.as_str()),
        LaunchNetwork::New { subnet, groups } => {
            created.push(ResourceType::NetworkInterface);
            primary.subnet_id(subnet.as_str()).set_groups(group_ids(groups)).delete_on_termination(true)
        }
    };
    let market = match request.market {
        Market::OnDemand => None,
        Market::Spot => {
            created.push(ResourceType::SpotInstancesRequest);
            let spot = SpotMarketOptions::builder()
                .spot_instance_type(SpotInstanceType::OneTime)
                .instance_interruption_behavior(InstanceInterruptionBehavior::Terminate)
                .set_max_price(request.price_max.clone());
            Some(
                InstanceMarketOptionsRequest::builder()
                    .market_type(MarketType::Spot)
                    .spot_options(spot.build())
                    .build(),
            )
        }
    };
    let profile = request
        .instance_profile
        .as_ref()
        .map(|name| IamInstanceProfileSpecification::builder().name(name).build());
    let user_data = request.user_data.as_deref().map(user_data::encoded);
    RunInstancesInputBuilder::default()
        .client_token(&request.client_token)
        .min_count(1)
        .max_count(1)
        .image_id(request.image.as_str())
        .instance_type(request.instance_type.as_str().into())
        .placement(Placement::builder().availability_zone(&request.zone).build())
        .network_interfaces(primary.build())
        .set_block_device_mappings(mappings(request))
        .set_instance_market_options(market)
        .set_key_name(request.key_name.clone())
        .set_iam_instance_profile(profile)
        .set_user_data(user_data)
        .set_metadata_options(request.metadata.as_ref().map(metadata_options))
        .set_launch_template(request.template.as_ref().map(template))
        .set_tag_specifications(tagged(created, &request.tags))
}

fn template(template: &LaunchTemplate) -> LaunchTemplateSpecification {
    LaunchTemplateSpecification::builder()
        .launch_template_id(template.id.as_str())
        .version(template.version.to_string())
        .build()
}

/// The metadata service. What is not said stays as the image and the account say.
fn metadata_options(options: &MetadataOptions) -> InstanceMetadataOptionsRequest {
    let MetadataOptions { http_tokens, hop_limit, instance_tags } = options;
    InstanceMetadataOptionsRequest::builder()
        .http_tokens(http_tokens.word().into())
        .set_http_put_response_hop_limit(hop_limit.map(i32::from))
        .set_instance_metadata_tags(instance_tags.then(|| "enabled".into()))
        .build()
}

/// What differs from the image's mapping; nothing where nothing does.
fn mappings(request: &LaunchRequest) -> Option<Vec<BlockDeviceMapping>> {
    let root = request.root.as_ref().map(root_mapping);
    let suppressed = request.suppress.iter().map(|device| suppressed_mapping(device));
    let volumes = request.volumes.iter().map(volume_mapping);
    let mappings: Vec<_> = root.into_iter().chain(volumes).chain(suppressed).collect();
    (!mappings.is_empty()).then_some(mappings)
}

/// What the image maps here is not made. An empty text suppresses it (API reference, BlockDeviceMapping).
fn suppressed_mapping(device: &str) -> BlockDeviceMapping {
    BlockDeviceMapping::builder().device_name(device).no_device("").build()
}

/// A data volume that outlives the instance.
fn volume_mapping(volume: &LaunchVolume) -> BlockDeviceMapping {
    let ebs = EbsBlockDevice::builder()
        .snapshot_id(volume.snapshot.as_str())
        .set_volume_size(volume.size_gib.map(int))
        .set_volume_type(volume.volume_type.as_deref().map(Into::into))
        .set_iops(volume.iops.map(int))
        .set_throughput(volume.throughput.map(int))
        .set_encrypted(volume.encrypted.then_some(true))
        .set_kms_key_id(volume.kms_key.clone())
        .delete_on_termination(false);
    BlockDeviceMapping::builder().device_name(&volume.device).ebs(ebs.build()).build()
}

/// Names no snapshot: EC2 refuses that on the root device.
fn root_mapping(root: &RootOverride) -> BlockDeviceMapping {
    let volume = EbsBlockDevice::builder()
        .set_volume_size(root.size_gib.map(int))
        .set_volume_type(root.volume_type.as_deref().map(Into::into))
        .set_iops(root.iops.map(int))
        .set_throughput(root.throughput.map(int))
        .set_encrypted(root.encrypted.then_some(true))
        .set_kms_key_id(root.kms_key.clone());
    BlockDeviceMapping::builder().device_name(&root.device).ebs(volume.build()).build()
}

fn volume_input(request: &VolumeRequest) -> CreateVolumeInputBuilder {
    CreateVolumeInputBuilder::default()
        .client_token(&request.client_token)
        .availability_zone(&request.zone)
        .size(int(request.size_gib))
        .volume_type(request.volume_type.as_str().into())
        .set_iops(request.iops.map(int))
        .set_throughput(request.throughput.map(int))
        // Never `false`: the account's default and an encrypted snapshot decide then.
        .set_encrypted(request.encrypted.then_some(true))
        .set_kms_key_id(request.kms_key.clone())
        .set_snapshot_id(request.snapshot.as_ref().map(|id| id.as_str().to_owned()))
        .set_tag_specifications(tagged([ResourceType::Volume], &request.tags))
}

fn interface_input(request: &InterfaceRequest) -> CreateNetworkInterfaceInputBuilder {
    CreateNetworkInterfaceInputBuilder::default()
        .client_token(&request.client_token)
        .subnet_id(request.subnet.as_str())
        .set_groups(group_ids(&request.groups))
        .set_private_ip_address(request.private_ip.map(|ip| ip.to_string()))
        .set_tag_specifications(tagged([ResourceType::NetworkInterface], &request.tags))
}

/// Always says `false`: an omitted value means true.
fn volumes_preserved_input(id: &InstanceId, devices: &[String]) -> ModifyInstanceAttributeInputBuilder {
    let preserved = |device: &String| {
        InstanceBlockDeviceMappingSpecification::builder()
            .device_name(device)
            .ebs(EbsInstanceBlockDeviceSpecification::builder().delete_on_termination(false).build())
            .build()
    };
    ModifyInstanceAttributeInputBuilder::default()
        .instance_id(id.as_str())
        .set_block_device_mappings(Some(devices.iter().map(preserved).collect()))
}

fn interface_preserved_input(
    id: &InterfaceId,
    attachment: &AttachmentId,
) -> ModifyNetworkInterfaceAttributeInputBuilder {
    let change = NetworkInterfaceAttachmentChanges::builder()
        .attachment_id(attachment.as_str())
        .delete_on_termination(false)
        .build();
    ModifyNetworkInterfaceAttributeInputBuilder::default()
        .network_interface_id(id.as_str())
        .attachment(change)
}

fn interface_groups_input(
    id: &InterfaceId,
    groups: &[GroupId],
) -> ModifyNetworkInterfaceAttributeInputBuilder {
    ModifyNetworkInterfaceAttributeInputBuilder::default()
        .network_interface_id(id.as_str())
        .set_groups(Some(groups.iter().map(ToString::to_string).collect()))
}

/// DeleteReplacedRootVolume stays unset (false): it deletes whatever root is current when the task runs, and
/// after a doubt that may be the node's own.
fn replace_root_input(
    instance: &InstanceId,
    volume: &VolumeId,
    client_token: &str,
    tags: &Tags,
) -> CreateReplaceRootVolumeTaskInputBuilder {
    CreateReplaceRootVolumeTaskInputBuilder::default()
        .instance_id(instance.as_str())
        .volume_id(volume.as_str())
        .client_token(client_token)
        .set_tag_specifications(tagged([ResourceType::ReplaceRootVolumeTask], tags))
}

fn image_input(request: &ImageRequest) -> RegisterImageInputBuilder {
    let root = BlockDeviceMapping::builder()
        .device_name(&request.traits.root_device)
        .ebs(EbsBlockDevice::builder().snapshot_id(request.root_snapshot.as_str()).build());
    RegisterImageInputBuilder::default()
        .name(&request.name)
        .architecture(request.traits.architecture.as_str().into())
        .virtualization_type("hvm")
        .root_device_name(&request.traits.root_device)
        .block_device_mappings(root.build())
        .set_boot_mode(request.traits.boot_mode.as_deref().map(Into::into))
        .set_ena_support(request.traits.ena_support.then_some(true))
        .set_tpm_support(request.traits.tpm_support.as_deref().map(Into::into))
        .set_imds_support(request.traits.imds_support.as_deref().map(Into::into))
        .set_uefi_data(request.uefi_data.clone())
        .set_tag_specifications(tagged([ResourceType::Image], &request.tags))
}

/// `None` for no groups: the VPC's default then.
fn group_ids(groups: &[GroupId]) -> Option<Vec<String>> {
    (!groups.is_empty()).then(|| groups.iter().map(|group| group.as_str().to_owned()).collect())
}

/// The same tags on everything the call creates; `None` for no tags, which EC2 refuses to take as an empty
/// list.
fn tagged(created: impl IntoIterator<Item = ResourceType>, tags: &Tags) -> Option<Vec<TagSpecification>> {
    let tags: Vec<Tag> =
        tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect();
    let specification = |resource_type| {
        TagSpecification::builder().resource_type(resource_type).set_tags(Some(tags.clone())).build()
    };
    (!tags.is_empty()).then(|| created.into_iter().map(specification).collect())
}

/// A number for the wire. What does not fit is far beyond every limit, so EC2 refuses the largest value just
/// as well.
fn int(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// The filters of each call that a selection needs: one per [`FILTER_VALUES_MAX`] ids, or sets of tags with
/// the same keys. Those of several sets select more than the sets do (see [`selects`]).
fn filters<Id: Ord>(id_filter: &str, select: &Select<Id>, text: fn(&Id) -> &str) -> Vec<Vec<Filter>> {
    match select {
        Select::Ids(ids) => {
            let distinct: Vec<&Id> = ids.iter().collect::<BTreeSet<_>>().into_iter().collect();
            let call = |ids: &[&Id]| vec![filter(id_filter, ids.iter().map(|id| text(id).to_owned()))];
            distinct.chunks(FILTER_VALUES_MAX).map(call).collect()
        }
        Select::Tagged(sets) => {
            let mut of_keys: BTreeMap<Vec<&String>, Vec<&Tags>> = BTreeMap::new();
            for tags in sets {
                of_keys.entry(tags.keys().collect()).or_default().push(tags);
            }
            of_keys
                .iter()
                .flat_map(|(keys, sets)| sets.chunks(FILTER_VALUES_MAX).map(|sets| tag_filters(keys, sets)))
                .collect()
        }
    }
}

/// A filter a key, with the values that it has in the sets.
fn tag_filters(keys: &[&String], sets: &[&Tags]) -> Vec<Filter> {
    let of_key = |key: &&String| {
        let values: BTreeSet<&String> = sets.iter().filter_map(|tags| tags.get(*key)).collect();
        filter(&format!("tag:{key}"), values.into_iter().map(|value| literal(value)))
    };
    keys.iter().map(of_key).collect()
}

pub(super) fn filter(name: &str, values: impl IntoIterator<Item = String>) -> Filter {
    Filter::builder().name(name).set_values(Some(values.into_iter().collect())).build()
}

/// A filter value that matches only itself (EC2 API reference, "Filtering": `*` and `?` are wildcards, `\`
/// escapes).
fn literal(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for c in value.chars() {
        if matches!(c, '*' | '?' | '\\') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// Whether an object is one of those asked for.
fn selects<Id: PartialEq>(select: &Select<Id>, id: &Id, tags: &Tags) -> bool {
    match select {
        Select::Ids(ids) => ids.contains(id),
        Select::Tagged(sets) => {
            sets.iter().any(|wanted| wanted.iter().all(|(key, value)| tags.get(key) == Some(value)))
        }
    }
}

/// Reads pages until one names no next.
pub(super) async fn all_pages<T, Answer>(
    action: Action,
    page: impl Fn(Option<String>) -> Answer,
) -> Result<Vec<T>, CloudError>
where
    Answer: Future<Output = Result<(Vec<T>, Option<String>), CloudError>>,
{
    let mut found = Vec::new();
    let mut token: Option<String> = None;
    for _ in 0..PAGES_MAX {
        let (items, next) = page(token.clone()).await?;
        found.extend(items);
        let next = next.filter(|next| !next.is_empty());
        if next.is_none() {
            return Ok(found);
        }
        if next == token {
            return Err(CloudError::lost(action, "the endpoint gives the same page again"));
        }
        token = next;
    }
    Err(CloudError::lost(action, format!("the endpoint gives more than {PAGES_MAX} pages")))
}

/// Views of all objects of a page; one incomplete object makes the whole answer unusable, because a look that
/// hides an object would be read as its absence.
fn seen<'a, T: 'a, View>(
    action: Action,
    objects: impl IntoIterator<Item = &'a T>,
    view: impl Fn(&T) -> Result<View, Missing>,
) -> Result<Vec<View>, CloudError> {
    objects.into_iter().map(view).collect::<Result<_, _>>().map_err(incomplete(action))
}

fn incomplete(action: Action) -> impl Fn(Missing) -> CloudError {
    move |missing| CloudError::lost(action, missing.to_string())
}

/// What an error of the SDK says about the call.
pub(super) fn failed<E>(action: Action) -> impl Fn(SdkError<E>) -> CloudError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    move |error| {
        let status = error.raw_response().map(|response| response.status().as_u16());
        match &error {
            SdkError::ServiceError(answer) => {
                answered(action, status.unwrap_or_default(), answer.err().code(), answer.err().message())
            }
            // Never sent: our request cannot be written, or there is no region or endpoint.
            SdkError::ConstructionFailure(_) => CloudError::coded(action, "", in_words(&error)),
            // No answer, or one that cannot be read.
            _ => {
                let status = status.map(|status| format!("HTTP {status}: ")).unwrap_or_default();
                CloudError::lost(action, format!("{status}{}", in_words(&error)))
            }
        }
    }
}

fn answered(action: Action, status: u16, code: Option<&str>, message: Option<&str>) -> CloudError {
    let message = message.unwrap_or_default();
    let Some(code) = code.filter(|code| !code.is_empty()) else {
        return CloudError::lost(action, format!("HTTP {status} without an error code {message}").trim_end());
    };
    let error = CloudError::coded(action, code, message);
    // A server's error under a code that the table does not know is still a server's error.
    if status >= 500 && error.class == Class::Person {
        return CloudError { code: code.to_owned(), ..CloudError::lost(action, message) };
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::ImageTraits;
    use crate::port::error::{Disposition, Effect};

    #[test]
    fn the_date_of_an_answer_is_read_and_anything_else_tells_nothing() {
        assert_eq!(http_date_ms("Mon, 14 Sep 2026 08:00:00 GMT"), Some(1_789_372_800_000));
        for odd in ["", "now", "2026-09-14T08:00:00Z", "Mon, 14 Sep 1926 08:00:00 GMT"] {
            assert_eq!(http_date_ms(odd), None, "{odd}");
        }
    }

    fn launch() -> LaunchRequest {
        LaunchRequest {
            client_token: "token".into(),
            image: ImageId::parse("ami-0a").unwrap(),
            instance_type: "m5.large".into(),
            market: Market::Spot,
            price_max: Some("0.05".into()),
            zone: "us-east-1a".into(),
            network: LaunchNetwork::Existing(InterfaceId::parse("eni-0a").unwrap()),
            root: None,
            volumes: Vec::new(),
            suppress: Vec::new(),
            key_name: None,
            instance_profile: Some("node".into()),
            user_data: Some("#!/bin/sh".into()),
            metadata: None,
            template: None,
            tags: Tags::from([("perennial:node".into(), "db-1".into())]),
        }
    }

    fn tagged_types(specifications: &[TagSpecification]) -> Vec<&str> {
        specifications.iter().filter_map(|s| s.resource_type()).map(|t| t.as_str()).collect()
    }

    #[test]
    fn a_spot_launch_on_an_existing_interface_names_only_that_interface() {
        let input = launch_input(&launch()).build().unwrap();
        assert_eq!(input.client_token(), Some("token"));
        assert_eq!((input.min_count(), input.max_count()), (Some(1), Some(1)));
        assert_eq!(input.placement().unwrap().availability_zone(), Some("us-east-1a"));
        assert_eq!((input.subnet_id(), input.security_group_ids().len()), (None, 0));
        let [primary] = input.network_interfaces() else { panic!("one interface") };
        assert_eq!((primary.device_index(), primary.network_interface_id()), (Some(0), Some("eni-0a")));
        assert_eq!((primary.subnet_id(), primary.delete_on_termination()), (None, None));
        let market = input.instance_market_options().unwrap();
        assert_eq!(market.market_type(), Some(&MarketType::Spot));
        let spot = market.spot_options().unwrap();
        assert_eq!(spot.max_price(), Some("0.05"));
        assert_eq!(spot.spot_instance_type(), Some(&SpotInstanceType::OneTime));
        assert_eq!(spot.instance_interruption_behavior(), Some(&InstanceInterruptionBehavior::Terminate));
        assert!(input.block_device_mappings().is_empty());
        assert_eq!(input.user_data(), Some("IyEvYmluL3No"));
        assert_eq!(input.iam_instance_profile().unwrap().name(), Some("node"));
        assert_eq!(
            tagged_types(input.tag_specifications()),
            ["instance", "volume", "spot-instances-request"]
        );
    }

    #[test]
    fn an_on_demand_launch_on_a_new_interface_creates_and_tags_it_and_has_no_market() {
        let input = launch_input(&LaunchRequest {
            market: Market::OnDemand,
            network: LaunchNetwork::New {
                subnet: SubnetId::parse("subnet-0a").unwrap(),
                groups: vec![GroupId::parse("sg-0a").unwrap()],
            },
            root: Some(RootOverride {
                device: "/dev/xvda".into(),
                size_gib: Some(20),
                volume_type: Some("gp3".into()),
                iops: Some(4_000),
                throughput: Some(250),
                encrypted: true,
                kms_key: Some("key-1".into()),
            }),
            volumes: Vec::new(),
            suppress: Vec::new(),
            metadata: Some(MetadataOptions { hop_limit: Some(2), ..MetadataOptions::default() }),
            template: serde_json::from_str(r#"{"id": "lt-0a1b2c3d", "version": 7}"#).unwrap(),
            ..launch()
        })
        .build()
        .unwrap();
        let [primary] = input.network_interfaces() else { panic!("one interface") };
        assert_eq!((primary.subnet_id(), primary.network_interface_id()), (Some("subnet-0a"), None));
        assert_eq!(
            (primary.groups(), primary.delete_on_termination()),
            (&["sg-0a".to_owned()][..], Some(true))
        );
        assert!(input.instance_market_options().is_none());
        assert_eq!(tagged_types(input.tag_specifications()), ["instance", "volume", "network-interface"]);
        let [root] = input.block_device_mappings() else { panic!("one mapping") };
        let ebs = root.ebs().unwrap();
        assert_eq!(
            (root.device_name(), ebs.volume_size(), ebs.snapshot_id()),
            (Some("/dev/xvda"), Some(20), None)
        );
        assert_eq!((ebs.iops(), ebs.throughput(), ebs.encrypted()), (Some(4_000), Some(250), Some(true)));
        assert_eq!(ebs.kms_key_id(), Some("key-1"));
        let template = input.launch_template().unwrap();
        assert_eq!((template.launch_template_id(), template.version()), (Some("lt-0a1b2c3d"), Some("7")));
        let metadata = input.metadata_options().unwrap();
        assert_eq!(metadata.http_tokens().map(|tokens| tokens.as_str()), Some("required"));
        assert_eq!(
            (metadata.http_put_response_hop_limit(), metadata.instance_metadata_tags()),
            (Some(2), None)
        );
    }

    #[test]
    fn what_is_preserved_is_said_in_one_call_and_never_left_out() {
        let devices = ["/dev/xvda".to_owned(), "/dev/sdf".to_owned()];
        let input = volumes_preserved_input(&InstanceId::parse("i-0a").unwrap(), &devices).build().unwrap();
        let said = |mapping: &InstanceBlockDeviceMappingSpecification| {
            (mapping.device_name().unwrap().to_owned(), mapping.ebs().unwrap().delete_on_termination())
        };
        let said: Vec<_> = input.block_device_mappings().iter().map(said).collect();
        assert_eq!(said, devices.map(|device| (device, Some(false))));

        let interface = InterfaceId::parse("eni-0a").unwrap();
        let attachment = AttachmentId::parse("eni-attach-0a").unwrap();
        let input = interface_preserved_input(&interface, &attachment).build().unwrap();
        let change = input.attachment().unwrap();
        assert_eq!(input.network_interface_id(), Some("eni-0a"));
        assert_eq!(
            (change.attachment_id(), change.delete_on_termination()),
            (Some("eni-attach-0a"), Some(false))
        );
    }

    #[test]
    fn a_root_is_replaced_by_a_volume_and_the_replaced_one_is_never_deleted() {
        let (instance, volume) = (InstanceId::parse("i-0a").unwrap(), VolumeId::parse("vol-0a").unwrap());
        let tags = Tags::from([("a".into(), "1".into())]);
        let input = replace_root_input(&instance, &volume, "token", &tags).build().unwrap();
        assert_eq!((input.instance_id(), input.volume_id()), (Some("i-0a"), Some("vol-0a")));
        assert_eq!(input.client_token(), Some("token"));
        assert_eq!(
            (input.delete_replaced_root_volume(), input.snapshot_id(), input.image_id()),
            (None, None, None)
        );
        assert_eq!(tagged_types(input.tag_specifications()), ["replace-root-volume-task"]);
    }

    #[test]
    fn an_image_is_registered_with_the_traits_of_its_node_and_without_the_bad_defaults() {
        let request = ImageRequest {
            name: "node-7".into(),
            root_snapshot: SnapshotId::parse("snap-0a").unwrap(),
            traits: ImageTraits {
                architecture: "arm64".into(),
                root_device: "/dev/xvda".into(),
                boot_mode: Some("uefi".into()),
                ena_support: true,
                tpm_support: Some("v2.0".into()),
                imds_support: Some("v2.0".into()),
                platform: None,
            },
            uefi_data: Some("QU1aTlVFRkk=".into()),
            tags: Tags::from([("a".into(), "1".into())]),
        };
        let input = image_input(&request).build().unwrap();
        assert_eq!((input.name(), input.virtualization_type()), (Some("node-7"), Some("hvm")));
        assert_eq!(input.architecture().map(|a| a.as_str()), Some("arm64"));
        assert_eq!(input.uefi_data(), Some("QU1aTlVFRkk="));
        assert_eq!((input.root_device_name(), input.ena_support()), (Some("/dev/xvda"), Some(true)));
        assert_eq!(input.boot_mode().map(|m| m.as_str()), Some("uefi"));
        assert_eq!(input.tpm_support().map(|s| s.as_str()), Some("v2.0"));
        assert_eq!(input.imds_support().map(|s| s.as_str()), Some("v2.0"));
        let [root] = input.block_device_mappings() else { panic!("one mapping") };
        assert_eq!(root.device_name(), Some("/dev/xvda"));
        assert_eq!(root.ebs().unwrap().snapshot_id(), Some("snap-0a"));
        assert_eq!(tagged_types(input.tag_specifications()), ["image"]);
    }

    #[test]
    fn nothing_is_tagged_without_tags() {
        assert_eq!(tagged([ResourceType::Volume], &Tags::new()), None);
    }

    #[test]
    fn a_volume_is_encrypted_only_on_request_and_never_forced_to_be_plain() {
        let request = VolumeRequest {
            client_token: "token".into(),
            zone: "z".into(),
            size_gib: 8,
            volume_type: "gp3".into(),
            iops: Some(3000),
            throughput: Some(125),
            encrypted: false,
            kms_key: None,
            snapshot: Some(SnapshotId::parse("snap-0a").unwrap()),
            tags: Tags::new(),
        };
        let input = volume_input(&request).build().unwrap();
        assert_eq!((input.encrypted(), input.client_token()), (None, Some("token")));
        assert_eq!(
            (input.snapshot_id(), input.iops(), input.throughput()),
            (Some("snap-0a"), Some(3000), Some(125))
        );
        let input = volume_input(&VolumeRequest { encrypted: true, ..request }).build().unwrap();
        assert_eq!(input.encrypted(), Some(true));
    }

    #[test]
    fn ids_are_asked_for_in_calls_of_two_hundred_and_none_in_no_call() {
        let ids: Vec<_> = (0..401).map(|n| VolumeId::parse(&format!("vol-{n}")).unwrap()).collect();
        let mut twice = ids.clone();
        twice.extend(ids);
        let calls = filters("volume-id", &Select::Ids(twice), VolumeId::as_str);
        assert_eq!(calls.iter().map(|call| call[0].values().len()).collect::<Vec<_>>(), [200, 200, 1]);
        assert!(filters("volume-id", &Select::Ids(Vec::new()), VolumeId::as_str).is_empty());
    }

    #[test]
    fn a_tag_value_matches_only_itself() {
        let select =
            Select::<VolumeId>::tagged(Tags::from([("a".into(), r"x*?\".into()), ("b".into(), "y".into())]));
        let [call] = &filters("volume-id", &select, VolumeId::as_str)[..] else { panic!("one call") };
        assert_eq!((call[0].name(), call[0].values()), (Some("tag:a"), &[r"x\*\?\\".to_owned()][..]));
        assert_eq!((call[1].name(), call[1].values()), (Some("tag:b"), &["y".to_owned()][..]));
    }

    #[test]
    fn sets_of_tags_with_the_same_keys_are_asked_for_in_calls_of_two_hundred() {
        let step = |n: u32| Tags::from([("owner".into(), "o".into()), ("step".into(), format!("s-{n:03}"))]);
        let other = Tags::from([("owner".into(), "o".into())]);
        let select = Select::<VolumeId>::Tagged((0..201).map(step).chain([other]).collect());
        let calls = filters("volume-id", &select, VolumeId::as_str);
        let sizes: Vec<Vec<usize>> =
            calls.iter().map(|call| call.iter().map(|filter| filter.values().len()).collect()).collect();
        assert_eq!(sizes, [vec![1], vec![1, 200], vec![1, 1]]);
        assert!(filters("volume-id", &Select::<VolumeId>::Tagged(Vec::new()), VolumeId::as_str).is_empty());
    }

    #[test]
    fn what_an_endpoint_answers_beyond_the_selection_is_dropped() {
        let id = VolumeId::parse("vol-0a").unwrap();
        let tags = Tags::from([("a".into(), "1".into())]);
        assert!(selects(&Select::Ids(vec![id.clone()]), &id, &tags));
        assert!(!selects(&Select::Ids(vec![VolumeId::parse("vol-0b").unwrap()]), &id, &tags));
        assert!(selects(&Select::tagged(tags.clone()), &id, &tags));
        let other = Tags::from([("a".into(), "2".into())]);
        assert!(!selects(&Select::tagged(other.clone()), &id, &tags));
        assert!(selects(&Select::Tagged(vec![other, tags.clone()]), &id, &tags));
    }

    #[tokio::test]
    async fn pages_are_read_to_the_end_and_a_page_that_repeats_is_an_error() {
        let found = all_pages(Action::DescribeVolumes, |token| async move {
            Ok(match token.as_deref() {
                None => (vec![1, 2], Some("second".to_owned())),
                Some("second") => (vec![3], Some(String::new())),
                Some(other) => panic!("{other}"),
            })
        });
        assert_eq!(found.await.unwrap(), [1, 2, 3]);
        let stuck = all_pages(Action::DescribeVolumes, |_| async { Ok((vec![1], Some("again".to_owned()))) });
        assert_eq!(stuck.await.unwrap_err().message, "the endpoint gives the same page again");
    }

    #[test]
    fn an_answer_is_classified_by_its_code_and_without_one_by_its_status() {
        for (status, code, class, effect) in [
            (400, Some("VcpuLimitExceeded"), Class::Quota, Effect::None),
            (500, Some("InsufficientInstanceCapacity"), Class::NoCapacity, Effect::None),
            (500, Some("InternalError"), Class::Transient, Effect::Unknown),
            (500, Some("SomethingNew"), Class::Transient, Effect::Unknown),
            (400, Some("SomethingNew"), Class::Person, Effect::None),
            (500, None, Class::Transient, Effect::Unknown),
            (200, Some(""), Class::Transient, Effect::Unknown),
        ] {
            let error = answered(Action::RunInstances, status, code, None);
            assert_eq!((error.class, error.effect), (class, effect), "{status} {code:?}");
        }
        let error = answered(Action::RunInstances, 500, None, None);
        assert_eq!(error.message, "HTTP 500 without an error code");
        assert_eq!(error.disposition(), Disposition::Retry);
    }
}
