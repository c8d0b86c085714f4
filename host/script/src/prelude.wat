;; What every script of the tests begins with: the contract's imports in their
;; lowered form, a memory with an allocator that starts anew after each call,
;; and writers for the records of the contract. Addresses below 4096 are free
;; for data; 16..44 stay zero.
(import "sluicegate:mapper/log@0.1.0" "write" (func $log (param i32 i32 i32)))
(import "sluicegate:mapper/state@0.1.0" "get" (func $get (param i32 i32 i32)))
(import "sluicegate:mapper/state@0.1.0" "set" (func $set (param i32 i32 i32 i32)))
(import "sluicegate:mapper/state@0.1.0" "delete" (func $delete (param i32 i32)))
(import "sluicegate:mapper/table@0.1.0" "get" (func $lookup (param i32 i32 i32 i32 i32)))
(import "sluicegate:mapper/table@0.1.0" "names" (func $tables (param i32)))
(memory (export "memory") 4)
(global $top (mut i32) (i32.const 4096))

(func $alloc (param $size i32) (result i32)
  (local $at i32)
  (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
  (global.set $top (i32.add (local.get $at) (local.get $size)))
  (block $fits
    (br_if $fits (i32.le_u (global.get $top) (i32.mul (memory.size) (i32.const 65536))))
    (br_if $fits (i32.ne (i32.const -1)
      (memory.grow (i32.add (i32.const 1) (i32.div_u (local.get $size) (i32.const 65536))))))
    unreachable)
  (local.get $at))

(func (export "cabi_realloc") (param $old i32) (param $had i32) (param $align i32) (param $size i32) (result i32)
  (local $at i32)
  (local.set $at (call $alloc (local.get $size)))
  (memory.copy (local.get $at) (local.get $old) (local.get $had))
  (local.get $at))

(func (export "cabi_post_transform") (param i32) (global.set $top (i32.const 4096)))

;; The result `ok` with these three lists.
(func $mapping
  (param $deliveries i32) (param $d i32) (param $rejections i32) (param $r i32) (param $filtered i32) (param $f i32)
  (result i32)
  (local $at i32)
  (local.set $at (call $alloc (i32.const 28)))
  (i32.store (local.get $at) (i32.const 0))
  (i32.store offset=4 (local.get $at) (local.get $deliveries))
  (i32.store offset=8 (local.get $at) (local.get $d))
  (i32.store offset=12 (local.get $at) (local.get $rejections))
  (i32.store offset=16 (local.get $at) (local.get $r))
  (i32.store offset=20 (local.get $at) (local.get $filtered))
  (i32.store offset=24 (local.get $at) (local.get $f))
  (local.get $at))

;; The result `error` with this text.
(func $error (param $text i32) (param $len i32) (result i32)
  (local $at i32)
  (local.set $at (call $alloc (i32.const 28)))
  (i32.store (local.get $at) (i32.const 1))
  (i32.store offset=4 (local.get $at) (local.get $text))
  (i32.store offset=8 (local.get $at) (local.get $len))
  (local.get $at))

;; A delivery of one message at `$at` (36 bytes): no target, no headers.
(func $delivery (param $at i32) (param $message i32) (param $body i32) (param $len i32)
  (local $list i32)
  (local.set $list (call $alloc (i32.const 4)))
  (i32.store (local.get $list) (local.get $message))
  (i32.store (local.get $at) (local.get $list))
  (i32.store offset=4 (local.get $at) (i32.const 1))
  (i32.store offset=8 (local.get $at) (i32.const 0))
  (i32.store offset=20 (local.get $at) (i32.const 0))
  (i32.store offset=24 (local.get $at) (i32.const 0))
  (i32.store offset=28 (local.get $at) (local.get $body))
  (i32.store offset=32 (local.get $at) (local.get $len)))

;; One delivery for each message, with its payload as body.
(func $pass (param $batch i32) (param $n i32) (result i32)
  (local $list i32) (local $i i32) (local $message i32)
  (local.set $list (call $alloc (i32.mul (local.get $n) (i32.const 36))))
  (block $done
    (loop $next
      (br_if $done (i32.ge_u (local.get $i) (local.get $n)))
      (local.set $message (i32.add (local.get $batch) (i32.mul (local.get $i) (i32.const 24))))
      (call $delivery
        (i32.add (local.get $list) (i32.mul (local.get $i) (i32.const 36)))
        (local.get $i)
        (i32.load offset=8 (local.get $message))
        (i32.load offset=12 (local.get $message)))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br $next)))
  (call $mapping (local.get $list) (local.get $n) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)))

;; The first byte of the first message's payload.
(func $first (param $batch i32) (result i32) (i32.load8_u (i32.load offset=8 (local.get $batch))))

;; One delivery of message 0 with this body.
(func $answer (param $body i32) (param $len i32) (result i32)
  (local $list i32)
  (local.set $list (call $alloc (i32.const 36)))
  (call $delivery (local.get $list) (i32.const 0) (local.get $body) (local.get $len))
  (call $mapping (local.get $list) (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)))
