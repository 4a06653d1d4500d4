/* The inner loop and its backward pass, line for line what perser/descend.py does by torch.

   Episodes lie side by side in the lanes of vectors, each computed as if it were alone. Their matrices are so small
   (K, C + K) that a library's products spend most of their time on being called. REAL is float or double. Sums run in
   one order and without fused operations, so that every processor gives the same bits. Arrays are packed, episodes
   first. */

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <tgmath.h>

typedef REAL lanes __attribute__((vector_size(32)));
enum { LANES = 32 / sizeof(REAL) };

#ifndef FOR_EACH_PROCESSOR
#ifdef __x86_64__
#define FOR_EACH_PROCESSOR __attribute__((target_clones("default", "avx2")))
#else
#define FOR_EACH_PROCESSOR
#endif
#endif

/* out += sign left right, rows x depth by depth x columns; left[i, k] lies at i li + k lk, right[k, j] at k rk + j rj. */
static inline __attribute__((always_inline)) void add(lanes *restrict out, int rows, int columns, int depth, REAL sign,
                                                      const lanes *restrict left, int li, int lk,
                                                      const lanes *restrict right, int rk, int rj)
{
    for (int i = 0; i < rows; i++) {
        lanes *o = out + i * columns;
        int j = 0;
        for (; j + 4 <= columns; j += 4) { /* four sums at a time: each waits for itself only */
            const lanes *l = left + i * li, *r = right + j * rj;
            lanes s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
            for (int k = 0; k < depth; k++, l += lk, r += rk) {
                s0 += *l * r[0];
                s1 += *l * r[rj];
                s2 += *l * r[2 * rj];
                s3 += *l * r[3 * rj];
            }
            o[j] += sign * s0;
            o[j + 1] += sign * s1;
            o[j + 2] += sign * s2;
            o[j + 3] += sign * s3;
        }
        for (; j < columns; j++) {
            lanes s = {0};
            for (int k = 0; k < depth; k++)
                s += left[i * li + k * lk] * right[k * rk + j * rj];
            o[j] += sign * s;
        }
    }
}

static void pack(lanes *to, const REAL *from, int size, int episodes)
{
    memset(to, 0, size * sizeof *to);
    for (int e = 0; e < episodes; e++)
        for (int i = 0; i < size; i++)
            to[i][e] = from[(size_t)e * size + i];
}

static void unpack(REAL *to, const lanes *from, int size, int episodes)
{
    for (int e = 0; e < episodes; e++)
        for (int i = 0; i < size; i++)
            to[(size_t)e * size + i] = from[i][e];
}

static lanes *room(size_t numbers)
{
    return aligned_alloc(sizeof(lanes), numbers * sizeof(lanes));
}

/* `steps` keeps per group of LANES episodes and per step, or for one step at a time unless `keep`: A, h, against, p,
   error, delta. With `every`, states before the first step and after each one. Returns 1 where memory is short. */
FOR_EACH_PROCESSOR
int forward(int episodes, int shots, int classes, int number, int every, int keep, const REAL *all_gram,
            const REAL *all_inner, const REAL *all_a, const REAL *rates, const REAL *all_mass, const REAL *all_wanted,
            lanes *steps, REAL *all_d, REAL *all_b, REAL *all_A, REAL *out_a)
{
    const int K = shots, C = classes, M = C + K;
    lanes *gram = room(K * K + M * M + K + K * C + K * M + M + C * M + K * M + C);
    if (!gram)
        return 1;
    lanes *inner = gram + K * K, *mass = inner + M * M, *wanted = mass + K, *d = wanted + K * C, *b = d + K * M,
          *A = b + M, *h = A + C * M, *a = h + K * M;
    for (int first = 0; first < episodes; first += LANES) {
        const int here = episodes - first < LANES ? episodes - first : LANES;
        pack(gram, all_gram + (size_t)first * K * K, K * K, here);
        pack(inner, all_inner + (size_t)first * M * M, M * M, here);
        pack(mass, all_mass + (size_t)first * K, K, here);
        pack(wanted, all_wanted + (size_t)first * K * C, K * C, here);
        pack(a, all_a + (size_t)first * C, C, here);
        memset(d, 0, (2 * K * M + M + C * M) * sizeof(lanes));
        for (int i = 0; i < C; i++)
            A[i * M + i] += 1;
        for (int i = 0; i < K; i++)
            h[i * M + C + i] += 1;
        for (int step = 0;; step++) {
            if (every || step == number) {
                const size_t at = (every ? (size_t)step : 0) * episodes + first;
                unpack(all_d + at * K * M, d, K * M, here);
                unpack(all_b + at * M, b, M, here);
                unpack(all_A + at * C * M, A, C * M, here);
                unpack(out_a + at * C, a, C, here);
            }
            if (step == number)
                break;
            const REAL rate_P = rates[5 * step + 1], rate_b = rates[5 * step + 2], rate_A = rates[5 * step + 3],
                       rate_a = rates[5 * step + 4];
            const size_t slot = keep ? (size_t)first / LANES * number + step : 0;
            lanes *kept = steps + slot * 2 * (C * M + K * M + K * C), *kept_h = kept + C * M, *against = kept_h + K * M,
                  *p = against + M * C, *error = p + K * C, *delta = error + K * C;
            memcpy(kept, A, C * M * sizeof(lanes));
            memcpy(kept_h, h, K * M * sizeof(lanes));
            memset(against, 0, M * C * sizeof(lanes));
            memset(delta, 0, K * M * sizeof(lanes));
            add(against, M, C, M, 1, inner, M, 1, A, 1, M);
            for (int k = 0; k < K; k++)
                memcpy(p + k * C, a, C * sizeof(lanes));
            add(p, K, C, M, 1, h, M, 1, against, C, 1);
            for (int k = 0; k < K; k++) { /* softmax over classes, then its error */
                lanes *z = p + k * C, most = *z, sum = {0};
                for (int c = 1; c < C; c++)
                    for (int e = 0; e < LANES; e++)
                        most[e] = z[c][e] > most[e] ? z[c][e] : most[e];
                for (int c = 0; c < C; c++) {
                    for (int e = 0; e < LANES; e++)
                        z[c][e] = exp(z[c][e] - most[e]);
                    sum += z[c];
                }
                for (int c = 0; c < C; c++) {
                    z[c] /= sum;
                    error[k * C + c] = z[c] * mass[k] - wanted[k * C + c];
                }
            }
            add(delta, K, M, C, 1, error, C, 1, A, M, 1);
            add(A, C, M, K, -rate_A, error, 1, C, h, M, 1);
            add(h, K, M, K, -rate_P, gram, K, 1, delta, M, 1);
            for (int j = 0; j < M; j++) {
                lanes down = {0};
                for (int k = 0; k < K; k++) {
                    down += delta[k * M + j];
                    d[k * M + j] += rate_P * delta[k * M + j];
                }
                b[j] -= rate_b * down;
                for (int k = 0; k < K; k++)
                    h[k * M + j] -= rate_b * down;
            }
            for (int c = 0; c < C; c++) {
                lanes down = {0};
                for (int k = 0; k < K; k++)
                    down += error[k * C + c];
                a[c] -= rate_a * down;
            }
        }
    }
    free(gram);
    return 0;
}

/* From the gradients of d, b, A, a those of gram, inner, a and, for each group of episodes, of the rates. */
FOR_EACH_PROCESSOR
int backward(int episodes, int shots, int classes, int number, int every, int second_order, const REAL *all_gram,
             const REAL *all_inner, const REAL *rates, const REAL *all_mass, const lanes *steps, const REAL *given_d,
             const REAL *given_b, const REAL *given_A, const REAL *given_a, REAL *all_to_gram, REAL *all_to_inner,
             REAL *all_to_a, REAL *to_rates)
{
    const int K = shots, C = classes, M = C + K;
    lanes *gram = room(2 * K * K + 2 * M * M + K + 3 * K * M + M + 2 * C * M + C + 2 * K * C);
    if (!gram)
        return 1;
    lanes *inner = gram + K * K, *mass = inner + M * M, *to_d = mass + K, *to_b = to_d + K * M, *to_A = to_b + M,
          *to_a = to_A + C * M, *to_h = to_a + C, *to_gram = to_h + K * M, *to_inner = to_gram + K * K,
          *from_A = to_inner + M * M, *to_z = from_A + K * C, *to_delta = to_z + K * C, *to_against = to_delta + K * M;
    for (int first = 0; first < episodes; first += LANES) {
        const int here = episodes - first < LANES ? episodes - first : LANES;
        pack(gram, all_gram + (size_t)first * K * K, K * K, here);
        pack(inner, all_inner + (size_t)first * M * M, M * M, here);
        pack(mass, all_mass + (size_t)first * K, K, here);
        memset(to_d, 0, (2 * K * M + M + C * M + C + K * K + M * M) * sizeof(lanes));
        for (int step = number;; step--) {
            if (every || step == number) {
                const size_t at = (every ? (size_t)step : 0) * episodes + first;
                for (int e = 0; e < here; e++) {
                    for (int i = 0; i < K * M; i++)
                        to_d[i][e] += given_d[(at + e) * K * M + i];
                    for (int i = 0; i < M; i++)
                        to_b[i][e] += given_b[(at + e) * M + i];
                    for (int i = 0; i < C * M; i++)
                        to_A[i][e] += given_A[(at + e) * C * M + i];
                    for (int i = 0; i < C; i++)
                        to_a[i][e] += given_a[(at + e) * C + i];
                }
            }
            if (!step)
                break;
            const REAL *rate = rates + 5 * (step - 1), rate_P = rate[1], rate_b = rate[2], rate_A = rate[3],
                       rate_a = rate[4];
            const size_t slot = (size_t)first / LANES * number + step - 1;
            const lanes *A = steps + slot * 2 * (C * M + K * M + K * C), *h = A + C * M, *against = h + K * M,
                        *p = against + M * C, *error = p + K * C, *delta = error + K * C;
            lanes by_P = {0}, by_b = {0}, by_A = {0}, by_a = {0};
            memcpy(to_delta, to_d, K * M * sizeof(lanes));
            add(to_delta, K, M, K, -1, gram, 1, K, to_h, M, 1);
            for (int j = 0; j < M; j++) {
                lanes from_b = to_b[j], down = {0};
                for (int k = 0; k < K; k++) {
                    from_b += to_h[k * M + j];
                    down += delta[k * M + j];
                    by_P += to_delta[k * M + j] * delta[k * M + j];
                }
                by_b -= from_b * down;
                for (int k = 0; k < K; k++)
                    to_delta[k * M + j] = rate_P * to_delta[k * M + j] - rate_b * from_b;
            }
            memset(from_A, 0, K * C * sizeof(lanes));
            add(from_A, K, C, M, 1, h, M, 1, to_A, 1, M);
            for (int k = 0; k < K; k++)
                for (int c = 0; c < C; c++) {
                    by_A -= from_A[k * C + c] * error[k * C + c];
                    by_a -= to_a[c] * error[k * C + c];
                }
            REAL *to = to_rates + ((size_t)first / LANES * number + step - 1) * 5;
            memset(to, 0, 5 * sizeof *to);
            for (int e = 0; e < here; e++) {
                to[1] += by_P[e];
                to[2] += by_b[e];
                to[3] += by_A[e];
                to[4] += by_a[e];
            }
            if (!second_order)
                continue;
            for (int k = 0; k < K; k++)
                for (int c = 0; c < C; c++)
                    to_z[k * C + c] = -rate_A * from_A[k * C + c] - rate_a * to_a[c];
            add(to_z, K, C, M, 1, to_delta, M, 1, A, 1, M);
            for (int k = 0; k < K; k++) { /* through error and softmax */
                lanes sum = {0};
                for (int c = 0; c < C; c++) {
                    to_z[k * C + c] *= mass[k];
                    sum += p[k * C + c] * to_z[k * C + c];
                }
                for (int c = 0; c < C; c++)
                    to_z[k * C + c] = p[k * C + c] * (to_z[k * C + c] - sum);
            }
            memset(to_against, 0, M * C * sizeof(lanes));
            add(to_against, M, C, K, 1, h, 1, M, to_z, C, 1);
            add(to_gram, K, K, M, -rate_P, to_h, M, 1, delta, 1, M);
            add(to_inner, M, M, C, 1, to_against, C, 1, A, M, 1);
            for (int c = 0; c < C; c++)
                for (int k = 0; k < K; k++)
                    to_a[c] += to_z[k * C + c];
            if (step == 1)
                continue; /* A and h begin as constants */
            add(to_h, K, M, C, -rate_A, error, C, 1, to_A, M, 1);
            add(to_h, K, M, C, 1, to_z, C, 1, against, 1, C);
            add(to_A, C, M, K, 1, error, 1, C, to_delta, M, 1);
            add(to_A, C, M, M, 1, to_against, 1, C, inner, M, 1);
        }
        unpack(all_to_gram + (size_t)first * K * K, to_gram, K * K, here);
        unpack(all_to_inner + (size_t)first * M * M, to_inner, M * M, here);
        unpack(all_to_a + (size_t)first * C, to_a, C, here);
    }
    free(gram);
    return 0;
}
