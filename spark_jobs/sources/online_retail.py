"""UCI 352 "Online Retail": order lines of a British gift shop from December 2010 on.

Invoices that begin with C are cancellations: their negative quantities make them returns, linked to their purchase at ingest.
About a quarter of the lines have no customer (they feed demand, not the recommender). Fully equal lines are two scans of one
article and stay. The same article comes as 85123a and 85123A.
"""

from __future__ import annotations

from typing import Any

COLUMNS = frozenset({"InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID", "Country"})
READS: dict[str, Any] = {}
SHOP = {"currency": "GBP", "time_zone": "Europe/London", "calendars": ["GB"], "languages": ["en"], "now": "data"}
TEXT_TIME = "M/d/yyyy H:mm"
"""How the CSV edition writes InvoiceDate."""
MAPPING = """
sources:
  - name: online_retail
    format: parquet
    path: ""
    drop:
      # not articles: postage, carriage, fees, discounts, manual corrections, vouchers, bad debt
      fees: >-
        upper(StockCode) in ('POST', 'DOT', 'C2', 'D', 'M', 'S', 'B', 'PADS', 'CRUK', 'AMAZONFEE', 'BANK CHARGES')
        or lower(StockCode) like 'gift%'
      # found, damaged, thrown away: booked at no price for nobody
      stock corrections: UnitPrice = 0.0 and CustomerID is null
    tables:
      - table: orders
        columns:
          order_id: InvoiceNo
          user_id: CustomerID # a float in the file: 17850.0 becomes "17850"
          item_id:
            sql: upper(StockCode)
          quantity: Quantity # negative on cancellations: returns
          unit_price: UnitPrice
          status:
            sql: if(InvoiceNo like 'C%', 'returned', 'paid')
          event_timestamp: InvoiceDate # local time
      - table: items
        where: UnitPrice > 0.0 and Quantity > 0.0
        columns:
          item_id:
            sql: upper(StockCode)
          title: Description
          event_timestamp: InvoiceDate
      - table: users
        where: CustomerID is not null
        columns:
          user_id: CustomerID
          country: Country
          event_timestamp: InvoiceDate
"""
