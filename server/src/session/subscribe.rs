//! SUBSCRIBE: the changes of a relation or query as rows with `time` and `diff`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Field, SchemaRef};
use futures::StreamExt;
use tidemill_dataflow::runtime::DataflowId;
use tidemill_planner::SqlError;
use tidemill_planner::ast::{Name, Subscribe, SubscribeTarget};
use tidemill_planner::catalog::{CatalogView, RelationKind};
use tidemill_zset::delta::schema_of;
use tidemill_zset::{CollectionId, Delta, Epoch};

use super::sql::SqlSession;
use super::{BatchStream, Notice, ParamValue, Response};
use crate::changes::retractions_first;
use crate::coordinator::build::{BuildRequest, BuildTarget};
use crate::coordinator::{Following, Handle, Message};
use crate::feed::{ChangeFeed, FeedItem};
use crate::reader::{Snapshot, history_gone, not_complete};

/// With PROGRESS there is at least one progress row in this time.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// What a subscription follows.
enum Followed {
    Collection {
        collection: CollectionId,
        columns: SchemaRef,
    },
    Query(Box<tidemill_planner::query::QueryPlan>, Vec<u64>),
}

impl SqlSession {
    /// `SUBSCRIBE …` as a query.
    pub(super) async fn subscribe_rows(
        &mut self,
        subscribe: &Subscribe,
        params: &[ParamValue],
    ) -> Result<Response, SqlError> {
        self.notify(Notice {
            severity: "NOTICE",
            sqlstate: "00000",
            message: "rows are sent as they come, but psql shows them only at the end".into(),
            hint: Some("In psql use COPY (SUBSCRIBE …) TO STDOUT.".into()),
        });
        let (schema, batches) = self.subscribe(subscribe, params).await?;
        Ok(Response::Rows {
            schema,
            batches,
            verb: "SUBSCRIBE",
            counted: true,
            live: true,
        })
    }

    /// Columns of a subscription.
    pub(super) fn subscribe_schema(
        &mut self,
        subscribe: &Subscribe,
    ) -> Result<SchemaRef, SqlError> {
        let columns = match self.followed(subscribe)? {
            Followed::Collection { columns, .. } => columns,
            Followed::Query(plan, _) => plan.columns.clone(),
        };
        Ok(change_schema(&columns, subscribe.progress))
    }

    fn followed(&mut self, subscribe: &Subscribe) -> Result<Followed, SqlError> {
        let published = self.pin();
        let query = match &subscribe.target {
            SubscribeTarget::Relation(Name { schema, name }) => {
                let Some(relation) = self.names(&published).resolve(schema.as_deref(), name) else {
                    return Err(self.no_relation(&published, name));
                };
                match relation.kind {
                    RelationKind::System => {
                        return Err(SqlError::unsupported(format!(
                            "system relation \"{name}\" can't be subscribed to"
                        ))
                        .hint("Its contents are computed when it is read; use SELECT."));
                    }
                    RelationKind::View { .. } | RelationKind::Broken { .. } => {
                        let quoted = format!(
                            "SELECT * FROM \"{}\".\"{}\"",
                            relation.schema, relation.name
                        );
                        tidemill_planner::names::parse_query(&quoted)?
                    }
                    _ => {
                        return Ok(Followed::Collection {
                            collection: relation.id,
                            columns: relation.columns,
                        });
                    }
                }
            }
            SubscribeTarget::Query(query) => query.as_ref().clone(),
        };
        let plan = self.plan(&published, &query, &[])?;
        let depends = plan
            .inputs
            .iter()
            .filter_map(|c| published.catalog.by_collection(*c))
            .map(|(o, _)| o.record.id)
            .collect();
        Ok(Followed::Query(Box::new(plan), depends))
    }

    /// Starts a subscription.
    pub(super) async fn subscribe(
        &mut self,
        subscribe: &Subscribe,
        params: &[ParamValue],
    ) -> Result<(SchemaRef, BatchStream), SqlError> {
        let as_of = subscribe
            .as_of
            .as_ref()
            .map(|e| self.time("AS OF", e, params))
            .transpose()?;
        let up_to = subscribe
            .up_to
            .as_ref()
            .map(|e| self.time("UP TO", e, params))
            .transpose()?;
        if let (Some(as_of), Some(up_to)) = (as_of, up_to)
            && up_to < as_of
        {
            return Err(SqlError::new(
                "22023",
                format!("UP TO {up_to} lies before AS OF {as_of}"),
            ));
        }
        let options = ChangeOptions {
            progress: subscribe.progress,
            as_of,
            up_to,
        };
        // A subscription sees changes to come, so it doesn't read the transaction's version.
        if let Some(transaction) = &mut self.transaction
            && transaction.is_untouched()
        {
            transaction.published = None;
        }
        match self.followed(subscribe)? {
            Followed::Collection {
                collection,
                columns,
            } => {
                let schema = change_schema(&columns, subscribe.progress);
                let feed = self
                    .follow_collection(collection, subscribe.snapshot, as_of)
                    .await?;
                let feed = feed.ok_or_else(|| {
                    SqlError::new(
                        "40001",
                        "what is subscribed to was altered or dropped meanwhile",
                    )
                    .hint("Subscribe again.")
                })?;
                Ok((schema.clone(), change_stream(feed, None, schema, options)))
            }
            Followed::Query(plan, depends) => {
                let schema = change_schema(&plan.columns, subscribe.progress);
                let (feed, guard) = self
                    .follow_query(*plan, depends, subscribe.snapshot, as_of)
                    .await?;
                Ok((
                    schema.clone(),
                    change_stream(feed, Some(guard), schema, options),
                ))
            }
        }
    }

    /// `None`: it, or what it stands on, is another one by now.
    async fn follow_collection(
        &self,
        collection: CollectionId,
        snapshot: bool,
        as_of: Option<Epoch>,
    ) -> Result<Option<ChangeFeed>, SqlError> {
        let catalog = self.handle.env.publisher.pin().catalog.clone();
        let collections = ChangeFeed::collections(&catalog, collection);
        let following = self
            .handle
            .ask(|reply| Message::Follow(collections.clone(), reply))
            .await?;
        let now = &following.published.catalog;
        if now.by_collection(collection).is_none()
            || ChangeFeed::collections(now, collection) != collections
        {
            return Ok(None);
        }
        let reader = Snapshot::of(&self.handle.env, &following.published);
        // Of an earlier time the feed says when the view was in error.
        if as_of.is_none() {
            reader.check_errors(collection)?;
        }
        if let Some(at) = as_of {
            let since = reader.since(collection)?;
            if at < since {
                return Err(history_gone(at, since));
            }
            if at > following.published.now() {
                return Err(not_complete(at, following.published.now()));
            }
        }
        let mut feed = ChangeFeed::new(&self.handle.env, collection, following);
        match (snapshot, as_of) {
            (true, None) => feed.with_snapshot(),
            (true, Some(at)) => feed.with_snapshot_at(at),
            (false, None) => {}
            (false, Some(at)) => feed.resume_after(at),
        }
        Ok(Some(feed))
    }

    async fn follow_query(
        &self,
        plan: tidemill_planner::query::QueryPlan,
        depends: Vec<u64>,
        snapshot: bool,
        as_of: Option<Epoch>,
    ) -> Result<(ChangeFeed, QueryGuard), SqlError> {
        let published = self.handle.env.publisher.pin();
        let context = self.context();
        self.definer(&published, &context).check_inputs(&plan)?;
        let compiled = super::execution::planning(|| plan.compile())?;
        let request = Box::new(BuildRequest {
            target: BuildTarget::Query {
                schema: plan.columns.clone(),
                as_of,
            },
            plan: Arc::new(compiled.plan),
            depends,
            seen: published.catalog.clone(),
        });
        let joined = self
            .handle
            .change(&self.underway, |reply| Message::Build(request, reply))
            .await?;
        let guard = QueryGuard {
            handle: self.handle.clone(),
            dataflow: joined.dataflow,
        };
        let (Some(following), Some(collection)) = (joined.following, joined.collection) else {
            return Err(SqlError::internal("a query is followed"));
        };
        let Following {
            published,
            followers,
        } = following;
        let mut feed = ChangeFeed::new(
            &self.handle.env,
            collection,
            Following {
                published,
                followers,
            },
        );
        let at = as_of.unwrap_or(feed.position() - 1);
        let rows = snapshot.then_some(joined.snapshot);
        feed.with_rows(at, rows, joined.history);
        Ok((feed, guard))
    }
}

/// Ends the query's dataflow when the subscription ends.
struct QueryGuard {
    handle: Handle,
    dataflow: DataflowId,
}

impl Drop for QueryGuard {
    fn drop(&mut self) {
        self.handle.send(Message::EndQuery(self.dataflow));
    }
}

/// `time`, with PROGRESS `progressed`, `diff`, then the columns (all may be NULL in progress rows).
fn change_schema(columns: &SchemaRef, progress: bool) -> SchemaRef {
    let mut fields = vec![Field::new("time", DataType::Int64, false)];
    if progress {
        fields.push(Field::new("progressed", DataType::Boolean, false));
    }
    fields.push(Field::new("diff", DataType::Int64, true));
    fields.extend(
        columns
            .fields()
            .iter()
            .map(|f| f.as_ref().clone().with_nullable(true)),
    );
    schema_of(fields)
}

struct ChangeOptions {
    progress: bool,
    as_of: Option<Epoch>,
    up_to: Option<Epoch>,
}

struct ChangeStream {
    feed: ChangeFeed,
    /// Keeps the query's dataflow.
    _guard: Option<QueryGuard>,
    schema: SchemaRef,
    options: ChangeOptions,
    queue: VecDeque<RecordBatch>,
    started: bool,
    progressed: Instant,
    /// The newest progress row's time.
    progress: Epoch,
    /// That of the first one, which precedes the contents that a stream starts with.
    first: Epoch,
    ended: bool,
    error: Option<SqlError>,
}

fn change_stream(
    feed: ChangeFeed,
    guard: Option<QueryGuard>,
    schema: SchemaRef,
    options: ChangeOptions,
) -> BatchStream {
    let state = ChangeStream {
        feed,
        _guard: guard,
        schema,
        options,
        queue: VecDeque::new(),
        started: false,
        progressed: Instant::now(),
        progress: 0,
        first: 0,
        ended: false,
        error: None,
    };
    futures::stream::unfold(state, |mut state| async move {
        state.next().await.map(|item| (item, state))
    })
    .boxed()
}

impl ChangeStream {
    async fn next(&mut self) -> Option<Result<RecordBatch, SqlError>> {
        loop {
            if let Some(batch) = self.queue.pop_front() {
                return Some(Ok(batch));
            }
            if let Some(e) = self.error.take() {
                self.ended = true;
                return Some(Err(e));
            }
            if self.ended {
                return None;
            }
            if !self.started {
                self.started = true;
                self.first = self.options.as_of.unwrap_or(self.feed.position() - 1);
                if self.options.progress {
                    self.push_progress(self.first);
                    continue;
                }
            }
            if let Err(e) = self.step().await {
                self.error = Some(e);
            }
        }
    }

    async fn step(&mut self) -> Result<(), SqlError> {
        // Reading the store takes a thread of its own; what is in memory isn't worth one.
        let items = match self.feed.is_in_memory() {
            true => self.feed.ready()?,
            false => tokio::task::block_in_place(|| self.feed.ready())?,
        };
        for item in items {
            match item {
                FeedItem::Changes { epoch, .. }
                    if self.options.up_to.is_some_and(|t| epoch >= t) => {}
                FeedItem::Changes {
                    epoch,
                    delta,
                    snapshot,
                } => {
                    // Who is cut off among these changes resumes from here: the snapshot was whole.
                    if self.options.progress && !snapshot && self.progress == self.first {
                        self.push_progress(self.first + 1);
                    }
                    self.push_changes(epoch, delta)?;
                }
                FeedItem::Error(epoch, _) if self.options.up_to.is_some_and(|t| epoch >= t) => {}
                FeedItem::Error(_, e) => {
                    self.error = Some(e);
                    return Ok(());
                }
                FeedItem::Healed(_) | FeedItem::Complete(_) => {}
            }
        }
        let position = self.feed.position();
        if self.options.up_to.is_some_and(|t| position >= t) {
            self.ended = true;
            return Ok(());
        }
        let due = !self.queue.is_empty() || self.progressed.elapsed() >= PROGRESS_INTERVAL;
        if self.options.progress && due && position > self.progress {
            self.push_progress(position);
        }
        if self.queue.is_empty() {
            let patience = if self.options.progress {
                PROGRESS_INTERVAL
            } else {
                Duration::from_secs(3600)
            };
            // A timeout only means that there is nothing but progress to tell.
            let _ = tokio::time::timeout(patience, self.feed.wait()).await;
        }
        Ok(())
    }

    fn push_changes(&mut self, epoch: Epoch, delta: Delta) -> Result<(), SqlError> {
        let internal = |e: arrow::error::ArrowError| SqlError::internal(e.to_string());
        let delta = retractions_first(delta);
        let rows = delta.len();
        let mut columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from_value(epoch, rows))];
        if self.options.progress {
            columns.push(Arc::new(BooleanArray::from(vec![false; rows])));
        }
        columns.push(Arc::new(Int64Array::new(delta.diffs.to_buffer(rows), None)));
        columns.extend(delta.rows.columns().iter().cloned());
        self.queue
            .push_back(RecordBatch::try_new(self.schema.clone(), columns).map_err(internal)?);
        Ok(())
    }

    fn push_progress(&mut self, time: Epoch) {
        let columns = self
            .schema
            .fields()
            .iter()
            .enumerate()
            .map(|(i, field)| -> ArrayRef {
                match i {
                    0 => Arc::new(Int64Array::from(vec![time])),
                    1 => Arc::new(BooleanArray::from(vec![true])),
                    _ => new_null_array(field.data_type(), 1),
                }
            });
        let batch = RecordBatch::try_new(self.schema.clone(), columns.collect());
        self.queue
            .push_back(batch.expect("progress rows have the columns of the subscription"));
        self.progress = time;
        self.progressed = Instant::now();
    }
}
