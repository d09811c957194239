// kernels/common/device: wide loads and stores. kCount adjacent elements in as few 16-byte accesses as possible,
// converted to f32. Use kCount 8 for rows whose length is a multiple of 8 (16 bytes of bf16), 4 for data that is mostly
// f32, 1 for all others.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace ssa::cuda {

template <int kCount>
struct Floats {
  float v[kCount];
  __device__ __forceinline__ float& operator[](int i) { return v[i]; }
  __device__ __forceinline__ float operator[](int i) const { return v[i]; }
};

/// A bf16 is the upper half of a float.
__device__ __forceinline__ void unpack_bf16(std::uint32_t pair, float& low, float& high) {
  low = __uint_as_float(pair << 16);
  high = __uint_as_float(pair & 0xffff0000u);
}

__device__ __forceinline__ Floats<8> unpack_bf16(const uint4& raw) {
  Floats<8> out;
  unpack_bf16(raw.x, out[0], out[1]);
  unpack_bf16(raw.y, out[2], out[3]);
  unpack_bf16(raw.z, out[4], out[5]);
  unpack_bf16(raw.w, out[6], out[7]);
  return out;
}

/// How packed vectors are read.
struct PlainRead {
  template <class T>
  static __device__ __forceinline__ T read(const T* from) {
    return *from;
  }
};
struct ConstantRead {
  template <class T>
  static __device__ __forceinline__ T read(const T* from) {
    return __ldg(from);
  }
};

/// Reads kCount elements; the address is aligned to min(16, kCount * element size) bytes.
template <int kCount, class Read = PlainRead>
__device__ __forceinline__ Floats<kCount> load(const __nv_bfloat16* from) {
  Floats<kCount> out;
  if constexpr (kCount == 1) {
    out[0] = __bfloat162float(Read::read(from));
  } else {
    static_assert(kCount % 8 == 0);
#pragma unroll
    for (int part = 0; part < kCount / 8; ++part) {
      const uint4 raw = Read::read(reinterpret_cast<const uint4*>(from) + part);
      float* v = out.v + part * 8;
      unpack_bf16(raw.x, v[0], v[1]);
      unpack_bf16(raw.y, v[2], v[3]);
      unpack_bf16(raw.z, v[4], v[5]);
      unpack_bf16(raw.w, v[6], v[7]);
    }
  }
  return out;
}

template <int kCount, class Read = PlainRead>
__device__ __forceinline__ Floats<kCount> load(const float* from) {
  Floats<kCount> out;
  if constexpr (kCount == 1) {
    out[0] = Read::read(from);
  } else {
    static_assert(kCount % 4 == 0);
#pragma unroll
    for (int part = 0; part < kCount / 4; ++part) {
      const float4 raw = Read::read(reinterpret_cast<const float4*>(from) + part);
      out[part * 4] = raw.x, out[part * 4 + 1] = raw.y, out[part * 4 + 2] = raw.z, out[part * 4 + 3] = raw.w;
    }
  }
  return out;
}

/// The same from memory that nothing writes while the kernel runs: the compiler may then move loads before stores, so
/// that more loads are in flight.
template <int kCount, class T>
__device__ __forceinline__ Floats<kCount> load_constant(const T* from) {
  return load<kCount, ConstantRead>(from);
}

/// Two floats rounded to nearest even and packed, the first in the lower half.
__device__ __forceinline__ std::uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&pair);
}

__device__ __forceinline__ uint4 pack_bf16(const Floats<8>& v) {
  return make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
}

/// How packed vectors are written.
struct PlainWrite {
  template <class T>
  static __device__ __forceinline__ void write(T* to, const T& value) {
    *to = value;
  }
};
/// Always as one access: in some kernels the compiler splits a plain store into four. For memory that the kernel does
/// not read.
struct WholeWrite {
  static __device__ __forceinline__ void write(uint4* to, const uint4& value) {
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)), "r"(value.x),
                 "r"(value.y), "r"(value.z), "r"(value.w));
  }
};

template <int kCount, class Write = PlainWrite>
__device__ __forceinline__ void store(__nv_bfloat16* to, const Floats<kCount>& values) {
  if constexpr (kCount == 1) {
    *to = __float2bfloat16_rn(values[0]);
  } else if constexpr (kCount == 4) {
    Write::write(reinterpret_cast<uint2*>(to),
                 make_uint2(pack_bf16(values[0], values[1]), pack_bf16(values[2], values[3])));
  } else {
    static_assert(kCount % 8 == 0);
#pragma unroll
    for (int part = 0; part < kCount / 8; ++part) {
      const float* v = values.v + part * 8;
      Write::write(reinterpret_cast<uint4*>(to) + part, make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]),
                                                                   pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7])));
    }
  }
}

template <int kCount>
__device__ __forceinline__ void store(float* to, const Floats<kCount>& values) {
  if constexpr (kCount == 1) {
    *to = values[0];
  } else {
    static_assert(kCount % 4 == 0);
#pragma unroll
    for (int part = 0; part < kCount / 4; ++part)
      reinterpret_cast<float4*>(to)[part] =
          make_float4(values[part * 4], values[part * 4 + 1], values[part * 4 + 2], values[part * 4 + 3]);
  }
}

__device__ __forceinline__ float4 operator+(const float4& a, const float4& b) {
  return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

__device__ __forceinline__ float4 operator*(const float4& a, float b) {
  return make_float4(a.x * b, a.y * b, a.z * b, a.w * b);
}

/// *to = value, or *to += value with `add`. For gradients that an op overwrites or accumulates.
__device__ __forceinline__ void store_or_add(float4* to, float4 value, bool add) {
  if (add) value = *to + value;
  *to = value;
}

/// The value rounded to bf16.
__device__ __forceinline__ float round_bf16(float value) { return __bfloat162float(__float2bfloat16_rn(value)); }

template <int kCount>
__device__ __forceinline__ Floats<kCount> round_bf16(Floats<kCount> values) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) values[i] = round_bf16(values[i]);
  return values;
}

}  // namespace ssa::cuda
