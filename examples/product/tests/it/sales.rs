//! What was sold of a SKU, in all and by day.

use product::proto::{GetSkuDailySalesRequest, GetSkuSalesVolumeRequest};
use tonic::Code;

use crate::{
    databases::{Databases, on_every_database},
    desk::{Desk, paid},
};

on_every_database!(
    sales_are_summed_within_the_span_and_averaged_by_day,
    sales_are_listed_by_day,
    what_was_sold_just_now_counts,
    a_span_or_a_sku_that_is_none_is_refused,
);

async fn desk_with_sales(databases: &Databases) -> Desk {
    let desk = Desk::with_stock(databases, &[100, 100]).await;
    // A return and another SKU's sale are no sales of SKU 1.
    desk.write(
        "INSERT INTO inventory_stock_change_records (order_id, sku_id, source_type, quantity, created_at) VALUES \
         (1, 1, 1, 5, '2026-01-01 00:00:00'), (2, 1, 1, 2, '2026-01-01 23:59:59'), (3, 1, 1, 3, '2026-01-03 12:00:00'), \
         (1, 1, 2, 5, '2026-01-03 12:00:00'), (4, 2, 1, 9, '2026-01-03 12:00:00')",
        &[],
    )
    .await;
    desk
}

fn span(from: &str, to: &str) -> GetSkuSalesVolumeRequest {
    GetSkuSalesVolumeRequest { sku_code: "SKU1".into(), start_time: from.into(), end_time: to.into() }
}

fn days(from: &str, to: &str) -> GetSkuDailySalesRequest {
    GetSkuDailySalesRequest { sku_code: "SKU1".into(), start_date: from.into(), end_date: to.into() }
}

async fn sales_are_summed_within_the_span_and_averaged_by_day(databases: Databases) {
    let desk = desk_with_sales(&databases).await;
    let (app, mut client) = desk.serve().await;
    for (from, to, total, daily) in [
        ("2026-01-01 00:00:00", "2026-01-03 23:59:59", 10, 3.33),
        // Both ends are included.
        ("2026-01-01 00:00:00", "2026-01-01 23:59:59", 7, 7.0),
        ("2026-01-01 00:00:01", "2026-01-03 12:00:00", 5, 1.67),
        ("2026-01-01 00:00:01", "2026-01-03 11:59:59", 2, 0.67),
        ("", "2026-01-01 00:00:00", 5, 5.0),
        ("2026-02-01 00:00:00", "2026-02-02 00:00:00", 0, 0.0),
        ("2026-01-03 12:00:00", "2026-01-01 00:00:00", 0, 0.0),
    ] {
        let sold = client.get_sku_sales_volume(span(from, to)).await.unwrap().into_inner();
        assert_eq!(
            (sold.sku_code.as_str(), sold.sales_volume, sold.daily_avg_sales),
            ("SKU1", total, daily),
            "{from} {to}"
        );
    }
    assert_eq!(client.get_sku_sales_volume(span("", "")).await.unwrap().into_inner().sales_volume, 10);
    app.stop().await.unwrap();
}

async fn sales_are_listed_by_day(databases: Databases) {
    let desk = desk_with_sales(&databases).await;
    let (app, mut client) = desk.serve().await;
    for (from, to, expected) in [
        ("2026-01-01", "2026-01-03", vec![("2026-01-01", 7), ("2026-01-03", 3)]),
        ("2026-01-02", "", vec![("2026-01-03", 3)]),
        ("", "2026-01-01", vec![("2026-01-01", 7)]),
        ("2026-01-02", "2026-01-02", vec![]),
    ] {
        let sold = client.get_sku_daily_sales(days(from, to)).await.unwrap().into_inner().daily_sales;
        assert!(sold.iter().all(|day| day.sku_code == "SKU1"));
        let sold: Vec<(&str, i64)> = sold.iter().map(|day| (day.date.as_str(), day.sales_volume)).collect();
        assert_eq!(sold, expected, "{from} {to}");
    }
    app.stop().await.unwrap();
}

async fn what_was_sold_just_now_counts(databases: Databases) {
    let desk = Desk::with_stock(&databases, &[100]).await;
    desk.deliver(&[paid(1, &[(1, 2)]), paid(2, &[(1, 1)])]).await.unwrap();
    let (app, mut client) = desk.serve().await;
    let sold = client.get_sku_sales_volume(span("", "")).await.unwrap().into_inner();
    assert_eq!((sold.sales_volume, sold.daily_avg_sales), (3, 3.0));
    let by_day = client.get_sku_daily_sales(days("2026-01-01", "")).await.unwrap().into_inner().daily_sales;
    // Two days when midnight is between the two orders.
    assert_eq!(by_day.iter().map(|day| day.sales_volume).sum::<i64>(), 3);
    app.stop().await.unwrap();
}

async fn a_span_or_a_sku_that_is_none_is_refused(databases: Databases) {
    let desk = Desk::with_stock(&databases, &[1]).await;
    let (app, mut client) = desk.serve().await;
    let of = |sku_code: &str| GetSkuSalesVolumeRequest { sku_code: sku_code.into(), ..span("", "") };
    for (request, code, text) in [
        (of(""), Code::InvalidArgument, "sku_code cannot be empty"),
        (of("none"), Code::NotFound, "sku not found"),
        (span("2026-01-01", ""), Code::InvalidArgument, "2006-01-02 15:04:05"),
        (span("", "yesterday"), Code::InvalidArgument, "found=yesterday"),
    ] {
        let refused = client.get_sku_sales_volume(request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{text}");
        assert!(refused.message().contains(text), "{}", refused.message());
    }
    let of = |sku_code: &str| GetSkuDailySalesRequest { sku_code: sku_code.into(), ..days("", "") };
    for (request, code, text) in [
        (of(""), Code::InvalidArgument, "sku_code cannot be empty"),
        (of("none"), Code::NotFound, "sku not found"),
        (days("2026-02-30", ""), Code::InvalidArgument, "2006-01-02"),
        (days("", "2026-01-01 00:00:00"), Code::InvalidArgument, "2006-01-02"),
    ] {
        let refused = client.get_sku_daily_sales(request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{text}");
        assert!(refused.message().contains(text), "{}", refused.message());
    }
    app.stop().await.unwrap();
}
