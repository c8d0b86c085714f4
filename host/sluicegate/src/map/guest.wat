;; Follows the prelude of the script tests. Each message by its first letter:
;; r rejected, f filtered, X a trap, anything else delivered with a target and
;; two headers.
(data (i32.const 100) "t/1b1a2because")
(func (export "configure") (param i32 i32) (result i32)
  ;; headers: (name, value) twice
  (i32.store (i32.const 200) (i32.const 103)) (i32.store (i32.const 204) (i32.const 1))
  (i32.store (i32.const 208) (i32.const 104)) (i32.store (i32.const 212) (i32.const 1))
  (i32.store (i32.const 216) (i32.const 105)) (i32.store (i32.const 220) (i32.const 1))
  (i32.store (i32.const 224) (i32.const 106)) (i32.store (i32.const 228) (i32.const 1))
  (i32.const 16))

(func (export "transform") (param $batch i32) (param $n i32) (result i32)
  (local $i i32) (local $message i32) (local $letter i32) (local $at i32)
  (local $deliveries i32) (local $d i32) (local $rejections i32) (local $r i32) (local $filtered i32) (local $f i32)
  (local.set $deliveries (call $alloc (i32.mul (local.get $n) (i32.const 36))))
  (local.set $rejections (call $alloc (i32.mul (local.get $n) (i32.const 12))))
  (local.set $filtered (call $alloc (i32.mul (local.get $n) (i32.const 4))))
  (block $done
    (loop $next
      (br_if $done (i32.ge_u (local.get $i) (local.get $n)))
      (local.set $message (i32.add (local.get $batch) (i32.mul (local.get $i) (i32.const 24))))
      (local.set $letter (i32.const 0))
      (if (i32.load offset=12 (local.get $message))
        (then (local.set $letter (call $first (local.get $message)))))
      (if (i32.eq (local.get $letter) (i32.const 88)) (then unreachable))
      (if (i32.eq (local.get $letter) (i32.const 114))
        (then
          (local.set $at (i32.add (local.get $rejections) (i32.mul (local.get $r) (i32.const 12))))
          (i32.store (local.get $at) (local.get $i))
          (i32.store offset=4 (local.get $at) (i32.const 107))
          (i32.store offset=8 (local.get $at) (i32.const 7))
          (local.set $r (i32.add (local.get $r) (i32.const 1))))
        (else (if (i32.eq (local.get $letter) (i32.const 102))
          (then
            (i32.store (i32.add (local.get $filtered) (i32.mul (local.get $f) (i32.const 4))) (local.get $i))
            (local.set $f (i32.add (local.get $f) (i32.const 1))))
          (else
            (local.set $at (i32.add (local.get $deliveries) (i32.mul (local.get $d) (i32.const 36))))
            (call $delivery (local.get $at) (local.get $i)
              (i32.load offset=8 (local.get $message)) (i32.load offset=12 (local.get $message)))
            (i32.store offset=8 (local.get $at) (i32.const 1))
            (i32.store offset=12 (local.get $at) (i32.const 100))
            (i32.store offset=16 (local.get $at) (i32.const 3))
            (i32.store offset=20 (local.get $at) (i32.const 200))
            (i32.store offset=24 (local.get $at) (i32.const 2))
            (local.set $d (i32.add (local.get $d) (i32.const 1)))))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br $next)))
  (call $mapping (local.get $deliveries) (local.get $d) (local.get $rejections) (local.get $r)
    (local.get $filtered) (local.get $f)))
