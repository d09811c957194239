#include "heartbeat_socket.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "ssa/base/error.h"

namespace ssa {

HeartbeatSocket::HeartbeatSocket() : file_(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
  sockaddr_in any{};
  any.sin_family = AF_INET;
  any.sin_addr.s_addr = htonl(INADDR_ANY);
  if (file_ >= 0 && ::bind(file_, reinterpret_cast<const sockaddr*>(&any), sizeof any) == 0) return;
  const int error = errno;
  if (file_ >= 0) ::close(file_);
  fail("watchdog: no UDP socket: ", std::strerror(error));
}

HeartbeatSocket::~HeartbeatSocket() { ::close(file_); }

std::vector<sockaddr_in> HeartbeatSocket::addresses() const {
  sockaddr_in own{};
  socklen_t size = sizeof own;
  ::getsockname(file_, reinterpret_cast<sockaddr*>(&own), &size);
  std::vector<sockaddr_in> all;
  ifaddrs* interfaces = nullptr;
  if (::getifaddrs(&interfaces) == 0) {
    for (const ifaddrs* i = interfaces; i; i = i->ifa_next) {
      if (!i->ifa_addr || i->ifa_addr->sa_family != AF_INET || (i->ifa_flags & IFF_LOOPBACK) != 0) continue;
      own.sin_addr = reinterpret_cast<const sockaddr_in*>(i->ifa_addr)->sin_addr;
      all.push_back(own);
    }
    ::freeifaddrs(interfaces);
  }
  own.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  all.push_back(own);
  return all;
}

void HeartbeatSocket::send(const Heartbeat& heartbeat, const sockaddr_in& to) const {
  ::sendto(file_, &heartbeat, sizeof heartbeat, MSG_NOSIGNAL, reinterpret_cast<const sockaddr*>(&to), sizeof to);
}

bool HeartbeatSocket::receive(std::uint64_t job, Heartbeat& heartbeat, sockaddr_in& from) const {
  for (;;) {
    socklen_t size = sizeof from;
    // MSG_TRUNC: the true size, so that a longer datagram is not taken for one of ours.
    const ssize_t bytes =
        ::recvfrom(file_, &heartbeat, sizeof heartbeat, MSG_TRUNC, reinterpret_cast<sockaddr*>(&from), &size);
    if (bytes < 0 && errno != EINTR) return false;
    if (bytes == static_cast<ssize_t>(sizeof heartbeat) && heartbeat.job == job) return true;
  }
}

}  // namespace ssa
