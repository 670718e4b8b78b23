"""The HDF5 layout of recordings: what the writer writes and the reader reads.

Signals keep their native rate, length, leads and order, as integers of the analogue-digital
converter. Physical value = (integer - baseline) / gain, in `unit`; the integer `INVALID` is no
sample, whatever sentinel the source used.

| name | type | meaning |
|---|---|---|
| `signals` | int16 (records, samples, columns), chunks of one record, where all lengths are equal; else (samples of all records, columns) with `starts`, `lengths` (records,) | integers; absent columns hold 0 |
| `record_id`, `patient_id`, `source` | text (records,) | name below the source, patient or empty, data set |
| `fs` | float64 (records,) | Hz |
| `fold` | int16 (records,) | official fold, -1 if none |
| `lead_index` | int16 (records, columns) | number in the attribute `lead_names`; -1 = absent |
| `gain`, `baseline`, `unit` | float64, int32, text (records, columns) | integers per unit, integer of 0, name |
| `labels`, `label_names` | uint8 (records, classes), text (classes,) | 1 where the class applies |
| `age`, `sex` | float32, int8 (records,) | years or NaN; 0 male, 1 female, -1 unknown |
| `ann_starts`, `ann_lengths` | int64 (records,) | where a record's annotations lie |
| `ann_sample`, `ann_symbol`, `ann_aux` | int64, text, text (annotations,) | beats and rhythm changes |
| `comments` | text (records,) | of the source's header, one per line |
| `sha256` | text (records,) | of the source files |
| `skipped`, `skipped_reason` | text | what was left out |

Attributes: `layout`, `lead_names`, `dataset`, `software`, `source_sha256` (JSON: tables by name),
`settings` (JSON), `fingerprint`, and
`label_table` (JSON) where the source groups its classes.
"""  # noqa: E501

from __future__ import annotations

LAYOUT = "ecg-1"
# No sample: the sentinel of format 16, which no other value of ours takes.
INVALID = -32768
